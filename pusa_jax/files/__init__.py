"""Files: names that hold a whole file or none, plain values that come back from one."""
