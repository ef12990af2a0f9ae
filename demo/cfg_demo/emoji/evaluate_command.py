"""What guidance does to the model of emoji: right concept, style, diversity, fidelity and copying, for every rule and scale.

Draws hundreds of prompts in four groups: pairs of concept and style that training showed, concepts in a style that was held out,
paraphrases in words that no caption has, and concepts that were held out altogether. A judge trained on real pictures says what
it sees. `cfg_demo.emoji.scores` defines the scores.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from cfg_demo.folders import needs, use_threads, writable
from cfg_demo.image.command import RULES
from classifier_free_guidance_pytorch.errors import ConfigError

EPILOG = """\
Writes to --out: scores.md, scores.png, rows-SCALE.png (six rows of pictures to look at, the worst among them), and scores.json,
from which an interrupted evaluation goes on.

examples:
  cfg-demo emoji-data --out emoji
  cfg-demo emoji-evaluate --data emoji
  cfg-demo emoji-evaluate --data emoji --model runs/mine/model.safetensors --rules cfg apg --scales 1 3 5 --each 40
"""
SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
OTHER_SCALES = (3.0, 6.0)  # of every rule but plain classifier-free guidance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cfg-demo emoji-evaluate`."""
    parser.add_argument('--data', type=Path, required=True, metavar='DIR', help='what cfg-demo emoji-data wrote')
    parser.add_argument('--model', type=Path, metavar='FILE', help='a model.safetensors of your own instead of the one shipped')
    parser.add_argument('--judge', type=Path, metavar='FILE', help='a judge.safetensors of your own instead of the one shipped')
    parser.add_argument('--rules', nargs='+', choices=RULES, default=RULES, help='(default: all)')
    parser.add_argument('--scales', type=float, nargs='+', default=SCALES, metavar='S', help='of cfg (default: 0 to 10)')
    parser.add_argument(
        '--other-scales', type=float, nargs='+', default=OTHER_SCALES, metavar='S', help='of the other rules (default: 3 6)'
    )
    parser.add_argument('--each', type=int, default=140, metavar='N', help='prompts of each group (default: %(default)s)')
    parser.add_argument('--steps', type=int, default=20, metavar='N', help='sampling steps (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the prompts (default: %(default)s)')
    parser.add_argument('--device', default='cpu', help='where to draw (default: %(default)s)')
    parser.add_argument('--threads', type=int, metavar='N', help="CPU threads (default: torch's own choice)")
    parser.add_argument(
        '--out', type=Path, default=Path('runs/emoji-evaluation'), help='folder for the results (default: %(default)s)'
    )


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every rule at every scale, save after each, and return all scores."""
    needs('matplotlib', 'the curve is drawn')
    needs('diffusers', 'images are sampled')
    if arguments.each < 1:
        raise ConfigError(f'--each counts prompts from 1, but got {arguments.each}')
    from cfg_demo.emoji.drawing import SHIPPED, load
    from cfg_demo.emoji.judge import SHIPPED as JUDGE
    from cfg_demo.emoji.judge import load_judge
    from cfg_demo.emoji.prompts import draw_prompts
    from cfg_demo.emoji.reading import read_pictures_of
    from cfg_demo.emoji.scores import as_table, measure, open_gallery
    from cfg_demo.emoji.sheets import save_rows, save_scores
    from cfg_demo.image.drawing import Request
    from cfg_demo.image.evaluate_command import read_scores

    request = Request('evaluation', steps=arguments.steps)
    use_threads(arguments.threads)
    folder = writable(arguments.out)
    model, settings = load(arguments.model or SHIPPED, arguments.device)
    judge, about = load_judge(arguments.judge or JUDGE)
    pictures = read_pictures_of(arguments.data, about['styles'])
    prompts = draw_prompts(pictures, arguments.each, arguments.seed)
    gallery = open_gallery(pictures, judge)

    setup = {'model': str(arguments.model or 'shipped'), 'steps': arguments.steps, 'each': arguments.each, 'seed': arguments.seed}
    done = read_scores(folder / 'scores.json', setup)
    for rule in arguments.rules:
        for scale in arguments.scales if rule == 'cfg' else arguments.other_scales:
            if any(one['rule'] == rule and one['scale'] == scale for one in done):
                continue
            scores, images = measure(model, settings, prompts, judge, gallery, replace(request, rule=rule), scale)
            done.append(scores)
            (folder / 'scores.json').write_text(json.dumps({'setup': setup, 'scores': done}, indent=1) + '\n', encoding='utf-8')
            if rule == 'cfg':
                save_rows(folder / f'rows-{scale:g}.png', images, prompts, judge, f'cfg at {scale:g}')
    (folder / 'scores.md').write_text(as_table(done) + '\n', encoding='utf-8')
    save_scores(folder / 'scores.png', done)
    print(f'{as_table(done)}\n\nTable: {folder / "scores.md"}  Plot: {folder / "scores.png"}  Pictures: {folder}/rows-*.png')
    return done
