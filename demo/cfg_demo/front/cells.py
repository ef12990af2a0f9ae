"""What was measured so far, one cell for each plan and seed, in a file from which an interrupted run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cfg_demo.front.worlds import Measured
from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import ConfigError


class Cells:
    """A JSON file of measurements and of schedules that were found.

    Args:
        file: Written after every addition.
        setup: What the measurements depend on.

    Raises:
        ConfigError: The file holds those of another setup.
    """

    def __init__(self, file: Path, setup: dict[str, Any]) -> None:
        self.file = file
        self.content: dict[str, Any] = {'setup': json.loads(json.dumps(setup)), 'measured': {}, 'searched': {}}
        if file.is_file():
            found = json.loads(file.read_text(encoding='utf-8'))
            if found['setup'] != self.content['setup']:
                raise ConfigError(
                    f'{str(file)!r} holds measurements of {found["setup"]}, not of {self.content["setup"]}: '
                    'pass another folder as --out'
                )
            self.content = found

    def measured(self, name: str, seed: int) -> Measured | None:
        """The measurement of a plan and a seed, if it was made."""
        saved = self.content['measured'].get(name, {}).get(str(seed))
        return None if saved is None else Measured.from_dict(saved)

    def add(self, name: str, seed: int, measured: Measured) -> None:
        """Keep a measurement."""
        self.content['measured'].setdefault(name, {})[str(seed)] = measured.as_dict()
        self._save()

    def searched(self, name: str) -> Any:
        """The schedule that a search of that name found, if it was made."""
        saved = self.content['searched'].get(name)
        return None if saved is None else guidance.from_config(saved)

    def add_searched(self, name: str, schedule: guidance.Schedule) -> None:
        """Keep a schedule that was found."""
        self.content['searched'][name] = guidance.to_config(schedule)
        self._save()

    def _save(self) -> None:
        """Write a new file in the place of the old, so that an interruption leaves one of them whole."""
        new = self.file.with_suffix('.new')
        new.write_text(json.dumps(self.content) + '\n', encoding='utf-8')
        new.replace(self.file)
