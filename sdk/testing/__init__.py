"""Fakes of hardware and contract suites, for tests of this package and of programs that use it."""
