"""The page under hostile requests: what fields take, who may ask, and where it listens."""

from __future__ import annotations

import socket
import threading
import time

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from cfg_demo.page import page as page_module
from cfg_demo.page.gate import LARGEST_REQUEST, Gate, can_listen
from cfg_demo.page.page import LARGEST_SEED, MOST_WAITING, build_page, read_request, serve
from classifier_free_guidance_pytorch.errors import ConfigError
from demo.tests.image.tiny_checkpoint import save_tiny
from demo.tests.page.test_page import ASKED


@pytest.fixture(scope='module')
def address(tmp_path_factory):
    page = build_page([save_tiny(tmp_path_factory.mktemp('model') / 'film' / 'model.safetensors', 'film')])
    yield serve(page, block=False)
    page.close()


@pytest.fixture(scope='module')
def client(address):
    return Client(address, verbose=False, analytics_enabled=False)


LONG = 'a red circle ' * 80_000  # a megabyte
REFUSED = [
    ({'prompt': 'a' * 301}, 'prompt has at most 300 letters on this page, but got 301'),
    ({'negative': 'a' * 301}, 'negative prompt has at most 300 letters on this page'),
    ({'scales': '1' * 301}, 'scales has at most 300 letters on this page'),
    ({'scales': '1 1e9'}, 'a guidance scale is a finite number, at most 100 here, but scales has 1000000000.0'),
    ({'scales': 'inf'}, 'a guidance scale is a finite number'),
    ({'steps': 101}, 'steps is a whole number from 1 to 100, but got 101'),
    ({'steps': 0}, 'steps is a whole number from 1 to 100, but got 0'),
    ({'steps': 2.5}, r'steps is a whole number from 1 to 100, but got 2\.5'),
    ({'seeds': 10**9}, 'pictures per scale is a whole number from 1 to 8'),
    ({'seed': -1}, f'seed is a whole number from 0 to {LARGEST_SEED}, but got -1'),
    ({'seed': 2**64}, 'seed is a whole number from 0 to'),
]
ODD = [None, True, 'x', [1], {'a': 1}, 1e400, -1, 10**30]


@pytest.mark.parametrize(('changes', 'sentence'), REFUSED)
def test_fields_beyond_their_limits(changes, sentence):
    values = {**ASKED, **changes}
    del values['model']
    with pytest.raises(ConfigError, match=sentence):
        read_request(**values)


@pytest.mark.parametrize('value', ODD, ids=repr)
@pytest.mark.parametrize('field', [name for name in ASKED if name != 'model'])
def test_values_of_any_type_are_refused_by_name_or_read(field, value):
    values = {**ASKED, field: value}
    del values['model']
    name = {'negative': 'negative prompt', 'rule': 'guidance', 'seeds': 'pictures per scale'}.get(field, field)
    if isinstance(value, str) and field in ('prompt', 'negative'):
        read_request(**values)
        return
    with pytest.raises(ConfigError, match=name):
        read_request(**values)


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'steps': 'many'}, "steps is a whole number from 1 to 100, but got &#x27;many&#x27;|but got 'many'"),
        ({'seed': [1]}, 'seed is a whole number from 0 to'),
        ({'rule': 7}, 'guidance is a text, but got 7'),
        ({'model': 5}, 'model is a whole number from 0 to 0, but got 5'),
        ({'model': 'x'}, 'model is a whole number from 0 to 0'),
        ({'prompt': 'a' * 301}, 'prompt has at most 300 letters'),
    ],
)
def test_the_server_answers_in_our_sentences(client, changes, sentence):
    with pytest.raises(AppError, match=sentence):
        client.predict(**{**ASKED, **changes}, api_name='/draw')


def test_a_megabyte_is_refused_before_it_is_read(address):
    join = f'{address}gradio_api/queue/join'
    answer = httpx.post(join, json={'data': [LONG], 'fn_index': 0, 'session_hash': 'a'})
    assert (answer.status_code, answer.text) == (413, f'a request has at most {LARGEST_REQUEST:,} bytes, and says how many')
    assert httpx.post(join, content=iter([b'a'])).status_code == 413


@pytest.mark.parametrize('route', ['api/draw', 'api/draw/', 'run/draw'])
def test_nobody_draws_beside_the_queue(address, route):
    answer = httpx.post(f'{address}gradio_api/{route}', json={'data': [*ASKED.values()]})
    assert answer.status_code == 404
    assert 'join the queue' in answer.text


def test_the_queue_has_an_end(address, monkeypatch):
    """What does not fit is refused at once, and the page itself still answers."""
    free = threading.Event()

    def waits(*given, **options):
        free.wait(60)
        raise ConfigError('enough')
        yield

    monkeypatch.setattr(page_module, 'draw_steps', waits)
    number = next(i for i, one in enumerate(httpx.get(f'{address}config').json()['dependencies']) if one['api_name'] == 'draw')
    try:
        answers = [
            httpx.post(
                f'{address}gradio_api/queue/join', json={'data': [*ASKED.values()], 'fn_index': number, 'session_hash': f'a{i}'}
            )
            for i in range(MOST_WAITING + 5)
        ]
        assert httpx.get(address).status_code == 200
    finally:
        free.set()
        while httpx.get(f'{address}gradio_api/queue/status', timeout=60).json()['queue_size']:
            time.sleep(0.1)
    assert [answer.status_code for answer in answers[-3:]] == [503] * 3
    assert 'Queue is full' in answers[-1].text


def test_files_are_not_taken(address):
    answer = httpx.post(f'{address}gradio_api/upload', files={'files': b'content'})
    assert (answer.status_code, answer.text) == (403, 'the page takes no files')


@pytest.mark.parametrize('host', ['evil.example', 'evil.example:7860', '127.0.0.1.evil.example', 'localhost.evil.it', '[', ''])
def test_other_hosts_are_refused(address, host):
    assert httpx.get(address, headers={'Host': host}).status_code == 400


@pytest.mark.parametrize('origin', ['http://evil.example', 'null', 'https://localhost', 'http://127.0.0.1:1'])
def test_other_origins_are_refused(address, origin):
    answer = httpx.post(f'{address}gradio_api/queue/join', json={}, headers={'Origin': origin})
    assert (answer.status_code, answer.text) == (403, f'the page does not answer the site {origin!r}')


def test_the_page_itself_is_answered(address):
    assert httpx.get(address).status_code == 200
    own = httpx.post(f'{address}gradio_api/queue/join', json={}, headers={'Origin': address.rstrip('/')})
    assert own.status_code not in (400, 403, 413)


def test_names_by_which_the_page_is_known():
    gate = Gate(None, 'box.lan')
    for host in ('box.lan', 'BOX.lan:80', '10.0.0.7:7860', '[::1]:7860', 'localhost', socket.gethostname()):
        assert gate.refusal('/', {'host': host}) is None, host
    assert gate.refusal('/', {'host': 'a.gradio.live'})[0] == 400
    assert Gate(None, 'box.lan', share=True).refusal('/', {'host': 'a.gradio.live', 'origin': 'https://a.gradio.live'}) is None


@pytest.mark.parametrize(
    'host', ['', ' ', 'nonsense.invalid', '1.2.3.4', '300.1.1.1', 'http://127.0.0.1', '127.0.0.1:80', 'a' * 300]
)
def test_a_host_that_is_none_is_an_error_at_once(host):
    page = build_page([])
    with pytest.raises(ConfigError, match=r'the page cannot listen on .* an address of this machine as --host'):
        serve(page, host, block=False)


def test_hosts_that_are_some():
    assert can_listen('127.0.0.1')
    assert can_listen('0.0.0.0')
