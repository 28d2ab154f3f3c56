"""A fuzzer that derives requests from a grammar: each kind of value at each place of each body. See ``campaign``."""
