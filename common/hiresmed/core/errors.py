"""Errors that a person can act on: one sentence that says what was wanted, what came, and the cure."""

from __future__ import annotations

import re
import sys
import warnings

# MONAI's warning about a `_target_` that is neither class nor function; it goes on with the module and fails later
MODULE_AS_TARGET = r"Component <module '(?P<name>[\w.]+)'.*> is not callable"


class InputError(ValueError):
    """A user's mistake (a bad file, knob or folder); its text is one complete sentence with the cure."""


def first_input_error(error: BaseException | None) -> InputError | None:
    """The InputError inside a chain of exceptions, or None: MONAI and ignite wrap what a component raises.

    MONAI's warning that a `_target_` is a module counts as one, where `speak_plainly` has made an error of it.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, InputError):
            return error
        module = re.match(MODULE_AS_TARGET, str(error)) if isinstance(error, UserWarning) else None
        if module:
            return InputError(
                f"_target_ must name a class or a function, got the module {module['name']}; name what it defines, and "
                "if the module hides a function of the same name in its package, rename the file."
            )
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def speak_plainly() -> None:
    """From now on an uncaught InputError ends the program with its sentence on stderr and no traceback.

    A hook, and not SystemExit at the place of the mistake: the same components also serve a MONAI Label server
    and notebooks, which must be able to catch the error and live on.
    """

    def hook(kind, error, traceback):
        mistake = first_input_error(error)
        if mistake is None:
            sys.__excepthook__(kind, error, traceback)
        else:
            print(f"error: {mistake}", file=sys.stderr)

    sys.excepthook = hook
    warnings.filterwarnings("error", message=MODULE_AS_TARGET, category=UserWarning)
