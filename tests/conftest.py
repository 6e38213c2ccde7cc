"""What every test gets."""

pytest_plugins = ["modum.testing.leaks", "tests.boxes", "tests.jobs"]
