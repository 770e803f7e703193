"""The benchmark: every variant in a process of its own, asked in turns, timed by phase and compared with a reference."""
