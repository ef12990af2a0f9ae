"""What guidance does to a model, in numbers: adherence, diversity and fidelity, for every rule and scale.

Draws hundreds of captions that name combinations of colour and shape never seen in training, at every scale and by every rule,
and has an exact checker read the pictures. Adherence should rise with the scale, diversity should fall, and so, at large scales,
should fidelity, unless a rule keeps it up; `cfg_demo.image.scores` defines the three.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from cfg_demo.folders import needs, use_threads, writable
from cfg_demo.image.command import RULES
from cfg_demo.image.settings import KINDS
from classifier_free_guidance_pytorch.errors import ConfigError

EPILOG = """\
Writes to --out: scores.md, tradeoff.png, and scores.json, from which an interrupted evaluation goes on.

examples:
  cfg-demo evaluate --out runs/evaluation
  cfg-demo evaluate --model runs/mine/model.safetensors --rules cfg apg --scales 1 3 7
"""
SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
OTHER_SCALES = (3.0, 8.0)  # of every rule but plain classifier-free guidance


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every rule at every scale, save after each, and return all scores."""
    needs('matplotlib', 'the curve is drawn')
    needs('diffusers', 'images are sampled')
    from cfg_demo.image.checkpoint import load_model
    from cfg_demo.image.drawing import SHIPPED, Request
    from cfg_demo.image.grid import save_tradeoff
    from cfg_demo.image.scores import PROMPTS, as_table, held_out_prompts, measure

    if not 0.0 < arguments.share <= 1.0:
        raise ConfigError(f'--share is above 0 and at most 1, but got {arguments.share}')
    request = Request('evaluation', steps=arguments.steps)
    use_threads(arguments.threads)
    folder = writable(arguments.out)
    model, settings = load_model(arguments.model or SHIPPED, arguments.device)
    counts = {kind: max(1, round(count * arguments.share)) for kind, count in PROMPTS.items() if kind in arguments.kinds}
    prompts = held_out_prompts(settings.image_size, counts, zoom=settings.zoom)

    setup = {'model': str(arguments.model or 'shipped'), 'steps': arguments.steps, 'prompts': counts}
    done = read_scores(folder / 'scores.json', setup)
    for rule in arguments.rules:
        for scale in arguments.scales if rule == 'cfg' else arguments.other_scales:
            if any(one['rule'] == rule and one['scale'] == scale for one in done):
                continue
            done.append(measure(model, settings, prompts, replace(request, rule=rule), scale).as_dict())
            (folder / 'scores.json').write_text(json.dumps({'setup': setup, 'scores': done}, indent=1) + '\n', encoding='utf-8')
    (folder / 'scores.md').write_text(as_table(done) + '\n', encoding='utf-8')
    save_tradeoff(folder / 'tradeoff.png', done)
    print(f'{as_table(done)}\n\nTable: {folder / "scores.md"}  Curve: {folder / "tradeoff.png"}')
    return done


def read_scores(file: Path, setup: dict[str, Any]) -> list[dict[str, Any]]:
    """What an earlier run with the same model and prompts has measured."""
    if not file.is_file():
        return []
    try:
        found = json.loads(file.read_text(encoding='utf-8'))
        measured, scores = found['setup'], list(found['scores'])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f'{str(file)!r} does not hold scores: pass another folder as --out') from error
    if measured != setup:
        raise ConfigError(f'{str(file)!r} holds scores of {measured}, not of {setup}: pass another folder as --out')
    return scores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cfg-demo evaluate`."""
    parser.add_argument('--model', type=Path, metavar='FILE', help='a model.safetensors of your own instead of the one shipped')
    parser.add_argument('--rules', nargs='+', choices=RULES, default=RULES, help='(default: all)')
    parser.add_argument('--scales', type=float, nargs='+', default=SCALES, metavar='S', help='of cfg (default: 0 to 10)')
    parser.add_argument(
        '--other-scales', type=float, nargs='+', default=OTHER_SCALES, metavar='S', help='of the other rules (default: 3 8)'
    )
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=KINDS, help='of prompts (default: all)')
    parser.add_argument('--share', type=float, default=1.0, help='of the 544 prompts; less is faster (default: %(default)s)')
    parser.add_argument('--steps', type=int, default=20, metavar='N', help='sampling steps (default: %(default)s)')
    parser.add_argument('--device', default='cpu', help='where to draw (default: %(default)s)')
    parser.add_argument('--threads', type=int, metavar='N', help="CPU threads (default: torch's own choice)")
    parser.add_argument('--out', type=Path, default=Path('runs/evaluation'), help='folder for the results (default: %(default)s)')
