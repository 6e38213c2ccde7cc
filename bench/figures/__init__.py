"""The figures of the original platform, measured again on the emulated cluster beside what users would take instead."""
