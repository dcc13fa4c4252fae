"""The C programs of the measurements, foremost the visitors at a constant rate (`visitors.c`)."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from struct import iter_unpack

Record = tuple[float, float, float]  # when the visitor came (CLOCK_MONOTONIC), how long he waited, both s; the status
CONNECTIONS = 64
END_SECONDS = 60  # who still waits has 30


def compiled(place: Path, name: str) -> Path:
    """Compile a C program of this directory into `place`; CalledProcessError where that fails."""
    program = place / name
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True, timeout=60)
    return program


@contextlib.contextmanager
def visiting(
    program: Path, port: int, host: str, path: str, rate: float, *, connections: int = CONNECTIONS, niceness: int = 0
) -> Iterator[list[Record]]:
    """Have a page visited so many times a second, or as often as it can at a rate of 0.

    The list is filled at the end: a status of 0 is no whole answer, a negative one that of a request sent again.
    """
    records: list[Record] = []
    file = program.with_name(f"visits-{host}")
    command = [str(program), str(port), host, path, f"{rate:.2f}", str(connections), str(file)]
    process = subprocess.Popen(["nice", "-n", str(niceness), *command])
    try:
        yield records
        process.terminate()
        process.wait(END_SECONDS)
        records += iter_unpack("3d", file.read_bytes())
    finally:
        process.kill()
        process.wait()
