"""One family of errors for everything a user can mend, each with the process's exit code.

The codes follow BSD's ``sysexits.h`` where it has one. A message says what was wrong, where, and
what to do next; the command line prints it without a traceback.
"""

from __future__ import annotations


class UnlabelError(Exception):
    """Something the user can mend. ``exit_code`` is what the command line returns."""

    exit_code = 1


class UsageError(UnlabelError):
    """The command or call does not fit together."""

    exit_code = 2


class DataError(UnlabelError):
    """The data, or what was made of it, cannot be used."""

    exit_code = 65


class Diverged(DataError):
    """Training came to numbers that are not finite: the same run again would do the same."""


class InputMissing(UnlabelError):
    """A file, folder or package that was named is not there."""

    exit_code = 66


class OutOfMemory(UnlabelError):
    """The machine or the accelerator has too little memory for this run."""

    exit_code = 71


class OutputExists(UnlabelError):
    """The output cannot be created; nothing is overwritten unasked."""

    exit_code = 73


class StorageError(UnlabelError):
    """The disk is full, read-only or failing."""

    exit_code = 74


class Preempted(UnlabelError):
    """The run was asked to stop and saved itself; running it again with --resume continues it."""

    exit_code = 75


class ConfigError(UnlabelError):
    """A setting has a value that cannot work, alone or with the others."""

    exit_code = 78
