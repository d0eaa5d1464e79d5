"""The environment of the other libraries: `.venv` beside this file, made of requirements.txt by `make bench-peers`."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

_FOLDER = Path(__file__).parent / ".venv"
_ABSENT = _FOLDER / "absent.json"
LIBRARIES = ("torch", "transformers", "transformer-lens", "nnsight")
WISHED_FOR = ("mlux", "mlxterp")
"""Libraries for MLX that would be measured if the package index had them."""
SETTINGS: Mapping[str, str] = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}
"""Environment variables of its processes: one thread, no network, no progress bars."""


def python() -> str:
    """The interpreter.

    Raises:
        FileNotFoundError: there is none; the message says what makes it.
    """
    interpreter = _FOLDER / "bin" / "python"
    if not interpreter.exists():
        raise FileNotFoundError(f"{interpreter} is missing: `make bench-peers` makes the environment")
    return str(interpreter)


def versions() -> dict[str, str]:
    """Of LIBRARIES, as they are installed."""
    program = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {LIBRARIES}}}))"
    return json.loads(subprocess.check_output([python(), "-c", program], text=True))


def absent() -> dict[str, str]:
    """Why each of WISHED_FOR is not measured; asked of the index once per environment."""
    if not _ABSENT.exists():
        _ABSENT.write_text(json.dumps({name: _why(name) for name in WISHED_FOR}))
    return json.loads(_ABSENT.read_text())


def _why(name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        command = [python(), "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, name]
        found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if found.returncode == 0:
        return "it can be installed now, and has no worker here yet"
    errors = [line.removeprefix("ERROR: ") for line in found.stdout.splitlines() if line.startswith("ERROR: ")]
    return f"pip: {errors[-1]}" if errors else f"pip ended with status {found.returncode}"
