"""What this machine can do, printed: processors, precision, memory, optional packages."""

from __future__ import annotations

import shutil
from importlib import metadata, util
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unlabel.data.cache import cache_folder
from unlabel.machine import Machine, this_machine

OPTIONAL = {
    "pydicom": "DICOM images (pip install 'unlabel[dicom]')",
    "mlxtend": "unlabel demo (pip install 'unlabel[demo]')",
    "onnxruntime": "saliency by ONNX files (pip install 'unlabel[saliency]')",
    "ray": "unlabel study --on ray (pip install 'unlabel[ray]')",
    "wandb": "Weights & Biases (pip install 'unlabel[wandb]')",
    "mlflow": "MLflow (pip install 'unlabel[mlflow]')",
    "trackio": "trackio (pip install 'unlabel[trackio]')",
}


def examine() -> Machine:
    """Print the machine's facts and what follows from them; returns the facts."""
    machine = this_machine()
    console = Console()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("processor", f"{machine.processor}, {machine.threads} threads")
    table.add_row("memory", f"{machine.memory:.0f} GiB")
    table.add_row("accelerator", _accelerator(machine))
    table.add_row("precision", _precision(machine))
    table.add_row("store cache", f"{cache_folder()} ({_free(cache_folder())} free)")
    for name, version in machine.as_dict()["versions"].items():
        table.add_row(name, version)
    for name, purpose in OPTIONAL.items():
        found = metadata.version(name) if util.find_spec(name) else "not installed"
        table.add_row(name, escape(f"{found}: {purpose}"))
    console.print(table)
    return machine


def _accelerator(machine: Machine) -> str:
    if machine.accelerator is None:
        return "none: training runs on the processor; small images and models are for it"
    memory = f", {machine.accelerator_memory:.0f} GiB" if machine.accelerator_memory else ""
    return machine.accelerator + memory


def _precision(machine: Machine) -> str:
    if machine.bf16:
        return "bf16: the hardware multiplies in it, so runs use it by default"
    return "fp32: the hardware does not multiply in bf16"


def _free(folder: Path) -> str:
    while not folder.exists():
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / 2**30:.0f} GiB"
