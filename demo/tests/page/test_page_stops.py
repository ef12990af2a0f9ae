"""A drawing that nobody waits for any longer: it ends at its step, and the next one begins."""

from __future__ import annotations

import time

import httpx
import pytest
import torch
from gradio_client import Client

from cfg_demo.image.drawing import Request, draw, draw_steps
from cfg_demo.page import page as page_module
from cfg_demo.page.page import build_page, serve
from demo.tests.image.tiny import tiny_model, tiny_settings
from demo.tests.image.tiny_checkpoint import save_tiny
from demo.tests.page.test_page import ASKED

LONG = {**ASKED, 'steps': 100, 'scales': '0 1 2 3 4 5 6 7 8 9'}  # a thousand steps
PATIENCE = 120.0  # seconds; nothing here is expected to take so long


def wait_until(holds) -> None:
    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < PATIENCE
        time.sleep(0.02)


@pytest.fixture
def steps(monkeypatch):
    """The drawings of the page: for each the number of its steps, and of those that were closed before their end."""

    class Steps:
        def __init__(self):
            self.counts, self.closed = [], 0

        def __call__(self, *given, **options):
            self.counts.append(0)
            place, inner = len(self.counts) - 1, draw_steps(*given, **options)
            try:
                while True:
                    try:
                        next(inner)
                    except StopIteration as end:
                        return end.value
                    self.counts[place] += 1
                    yield
            except GeneratorExit:
                inner.close()
                self.closed += 1
                raise

    counted = Steps()
    monkeypatch.setattr(page_module, 'draw_steps', counted)
    return counted


@pytest.fixture(scope='module')
def address(tmp_path_factory):
    page = build_page([save_tiny(tmp_path_factory.mktemp('model') / 'film' / 'model.safetensors', 'film')])
    yield serve(page, block=False)
    page.close()


def test_a_drawing_is_made_step_by_step_and_stops_where_it_is_closed():
    model, settings = tiny_model(), tiny_settings()
    request = Request('a red circle', scales=(0.0, 3.0), seeds=(1, 2), steps=4)
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    steps = draw_steps(model, settings, request, progress=False)
    for _ in range(5):  # into the second scale
        next(steps)
    made = len(calls)
    steps.close()
    assert len(calls) == made == 5
    handle.remove()
    steps, count = draw_steps(model, settings, request, progress=False), 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found = end.value
            break
        count += 1
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled(), 'what runs between steps is no business of the drawing'
    assert count == 2 * 4
    assert torch.equal(found.images, draw(model, settings, request, progress=False).images)


def test_a_drawing_that_is_cancelled_stops_and_the_next_one_begins(address, steps):
    client = Client(address, verbose=False, analytics_enabled=False)
    job = client.submit(**LONG, api_name='/draw')
    wait_until(lambda: steps.counts and steps.counts[0] >= 2)
    assert job.cancel()
    wait_until(lambda: steps.closed == 1)
    made = steps.counts[0]
    assert made < 1000
    client.predict(**ASKED, api_name='/draw')
    assert steps.counts == [made, 4]


def test_a_drawing_whose_reader_has_left_stops(address, steps):
    api = f'{address}gradio_api'
    number = next(i for i, one in enumerate(httpx.get(f'{address}config').json()['dependencies']) if one['api_name'] == 'draw')
    joined = httpx.post(f'{api}/queue/join', json={'data': [*LONG.values()], 'fn_index': number, 'session_hash': 'left'})
    assert joined.status_code == 200
    with httpx.stream('GET', f'{api}/queue/data', params={'session_hash': 'left'}, timeout=PATIENCE) as answer:
        for line in answer.iter_lines():
            if 'step 2 of 1000' in line:
                break
    wait_until(lambda: steps.closed == 1)
    assert steps.counts[0] < 1000


def test_the_stop_button_cancels_the_drawing(address):
    config = httpx.get(f'{address}config').json()
    (drawn,) = [one for one in config['dependencies'] if one['api_name'] == 'draw']
    (stop,) = [one['id'] for one in config['components'] if one['props'].get('value') == 'Stop']
    cancelled = [one['cancels'] for one in config['dependencies'] if [stop, 'click'] in one['targets']]
    assert [drawn['id']] in cancelled


def test_the_note_says_how_far_it_is(address):
    client = Client(address, verbose=False, analytics_enabled=False)
    job = client.submit(**ASKED, api_name='/draw')
    _, note, table = job.result(timeout=PATIENCE)
    assert 'green frame' in note
    assert len(table['data']) == 2
    notes = [output[1] for output in job.outputs()]
    assert notes[:-1] == [f'Drawing: step {number} of 4.' for number in range(1, 5)]
