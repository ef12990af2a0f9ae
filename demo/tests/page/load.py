"""Asks a served page for much: twenty users at once, and five hundred requests, of which some are refused.

python -m demo.tests.page.load users                     each with a prompt of its own: whose picture comes back, and when
python -m demo.tests.page.load requests                  does the process of the page grow?

The page is a process of its own, as `cfg-demo page` starts it, with the model of coloured shapes that ships.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from cfg_demo.image.drawing import SHIPPED, draw
from cfg_demo.image.grid import save_grid
from cfg_demo.page.page import Offered, offered, read_request

USERS, REQUESTS = 20, 500
PATIENCE = 15 * 60.0  # seconds


def asked(number: int, steps: int) -> dict:
    """What user or request `number` asks for: a picture that no other has."""
    return {
        'prompt': f'a {("red", "blue", "green", "yellow")[number % 4]} circle', 'negative': '', 'scales': '3', 'rule': 'cfg',
        'model': 0, 'steps': steps, 'seed': number, 'seeds': 1,
    }  # fmt: skip


@contextmanager
def served(model: Path, threads: int) -> Iterator[tuple[str, int]]:
    """The address of a page, and the number of its process."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    code = (
        'import sys; from cfg_demo.page.page import build_page, serve; from cfg_demo.folders import use_threads; '
        'from pathlib import Path; use_threads(int(sys.argv[3])); serve(build_page([Path(sys.argv[1])]), port=int(sys.argv[2]))'
    )
    page = subprocess.Popen([sys.executable, '-c', code, str(model), str(port), str(threads)], stdout=subprocess.DEVNULL)
    address = f'http://127.0.0.1:{port}/'
    try:
        start = time.monotonic()
        while True:
            try:
                httpx.get(address, timeout=60)
                break
            except httpx.TransportError:
                assert page.poll() is None, 'the page ended'
                assert time.monotonic() - start < PATIENCE
                time.sleep(0.5)
        yield address, page.pid
    finally:
        page.terminate()
        page.wait()


def pixels(path: str | BytesIO) -> np.ndarray:
    return np.asarray(Image.open(path).convert('RGB'))


def expected(by: Offered, number: int, steps: int) -> np.ndarray:
    """The picture that a request must get, drawn here."""
    values = asked(number, steps)
    del values['model']
    save_grid(png := BytesIO(), draw(by.model, by.settings, read_request(**values), progress=False))
    return pixels(png)


def users(model: Path, count: int, steps: int, threads: int) -> dict[str, float]:
    """All users press Draw at once; each must get the picture of its own prompt and seed."""
    by = offered(model)
    own = [expected(by, number, steps) for number in range(count)]
    assert len({picture.tobytes() for picture in own}) == count
    with served(model, threads) as (address, _):
        clients = [Client(address, verbose=False, analytics_enabled=False) for _ in range(count)]
        clients[0].predict(**asked(0, steps), api_name='/draw')  # what is made once

        def press(number: int) -> tuple[float, bool]:
            start = time.monotonic()
            picture, *_ = clients[number].predict(**asked(number, steps), api_name='/draw')
            waited = time.monotonic() - start
            path = picture if isinstance(picture, str) else picture['path']
            return waited, bool(np.array_equal(pixels(path), own[number]))

        with ThreadPoolExecutor(count) as pool:
            found = list(pool.map(press, range(count)))
        start = time.monotonic()
        clients[0].predict(**asked(0, steps), api_name='/draw')
        alone = time.monotonic() - start
    waited = sorted(seconds for seconds, _ in found)
    assert all(right for _, right in found), 'a user got the picture of another'
    return {'alone': alone, 'median': float(np.median(waited)), 'p95': float(np.percentile(waited, 95)), 'longest': waited[-1]}


def memory_of(process: int) -> int:
    """Bytes of private memory that Linux states of a process."""
    lines = Path(f'/proc/{process}/status').read_text(encoding='utf-8').splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith('RssAnon'))


def requests(model: Path, count: int, steps: int, threads: int) -> dict[str, float]:
    """One request after another; every tenth is refused, and every fifth is that of a new visitor."""
    with served(model, threads) as (address, process):
        client, found = Client(address, verbose=False, analytics_enabled=False), []
        for number in range(1, count + 1):
            if number % 5 == 0:
                client = Client(address, verbose=False, analytics_enabled=False)
            values = asked(number, steps)
            if number % 10 == 0:
                with pytest.raises(AppError, match='at most 300 letters'):
                    client.predict(**{**values, 'prompt': 'x' * 301}, api_name='/draw')
            else:
                client.predict(**values, api_name='/draw')
            if number % (count // 10) == 0:
                found.append(memory_of(process))
    return {f'MiB after {(i + 1) * (count // 10)}': memory / 2**20 for i, memory in enumerate(found)} | {
        'the second half of the requests against the first': max(found[5:]) / max(found[:5])
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=('users', 'requests'))
    parser.add_argument('--model', type=Path, default=SHIPPED)
    parser.add_argument('--count', type=int, metavar='N', help=f'default: {USERS} users, {REQUESTS} requests')
    parser.add_argument('--steps', type=int, default=25, metavar='N', help='sampling steps of a picture (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=1, metavar='N', help='CPU threads of the page (default: %(default)s)')
    chosen = parser.parse_args(arguments)
    run = {'users': users, 'requests': requests}[chosen.what]
    count = chosen.count or {'users': USERS, 'requests': REQUESTS}[chosen.what]
    found = run(chosen.model, count, chosen.steps, chosen.threads)
    print(f'{count} {chosen.what}, {chosen.steps} steps, {chosen.threads} threads, {os.cpu_count()} cores:')
    for name, value in found.items():
        print(f'  {name}: {value:,.3f}')


if __name__ == '__main__':
    main()
