"""The command line: the verbs of ``unlabel.api``, with exit codes and no tracebacks.

Every command is made from the signature and docstring of the function of the same name, so the
two cannot drift apart.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.protocol import is_renderable

from unlabel import api, api_study
from unlabel.errors import UnlabelError, UsageError
from unlabel.memory import settle

INTERRUPTED = 130
OUT_OF_DISK = 74

app = App(
    name="unlabel",
    help="Pre-train vision backbones on your own unlabelled images, and measure what it brought.",
    version_flags=["--version"],
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for verb in (
    api.pretrain,
    api.evaluate,
    api.ingest,
    api.saliency,
    api.export,
    api.embed,
    api.report,
    api.demo,
    api.doctor,
):
    app.command(verb)
study = App(name="study")
study.default(api_study.study)
study.command(api_study.study_status, name="status")
study.command(api_study.study_fit, name="fit")
study.command(api_study.study_advise, name="advise")
app.command(study)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its documented code."""
    settle()
    code = run(arguments)
    settle()  # there is nothing left to collect for, and looking would take a second
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Mistakes of the user end in one message, not a traceback."""
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        result = app(arguments, exit_on_error=False, print_error=False, error_console=errors)
    except UnlabelError as error:
        return _say(errors, str(error), error.exit_code)
    except CycloptsError as error:
        words = " ".join(("unlabel", *(error.command_chain or ())))
        return _say(errors, f"{error}\nTry: {words} --help", UsageError.exit_code)
    except KeyboardInterrupt as stop:
        return _say(errors, str(stop) or "Interrupted.", INTERRUPTED)
    except OSError as error:
        if "UNLABEL_DEBUG" in os.environ:
            raise
        return _say(errors, f"The system refused: {error}", OUT_OF_DISK)
    if is_renderable(result) or isinstance(result, Path):
        Console(highlight=False, soft_wrap=True).print(result)
    return 0


def _say(console: Console, message: str, code: int) -> int:
    console.print(message, style="red" if console.is_terminal else None, markup=False)
    return code
