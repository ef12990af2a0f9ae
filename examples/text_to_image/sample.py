"""Text to image, 2 of 3: draw texts with a trained network, guided.

    python examples/text_to_image/sample.py "a red circle above a blue square" --cond-scale 4
    python examples/text_to_image/sample.py --model runs/mine/model.safetensors --prompts prompts.txt --guidance apg

The network predicts twice, once with the text and once with the null condition, and is followed where the two disagree:

    guided = null + cond_scale * (cond - null)

A scale of 1 is the plain conditional prediction, 0 ignores the text, and larger ones insist. What the texts mean to the network
is computed once for all steps (`model.prepare`), and diffusers' scheduler decides how far to go with each prediction.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from cfg_demo.folders import needs, writable
from cfg_demo.image.checkpoint import load_model
from cfg_demo.image.diffusion import Diffusion
from cfg_demo.image.drawing import SHIPPED
from cfg_demo.image.grid import save_samples
from cfg_demo.image.rules import RULES, guided
from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import CFGError, ConfigError


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> Tensor:
    """Draw, save, and return the images `(prompts * count, 3, s, s)` from 0 to 1."""
    args = build_parser().parse_args(arguments)
    needs('matplotlib', 'the grid is drawn')
    texts = [text for text in read_prompts(args) for _ in range(args.count)]
    folder = writable(args.out)
    model, settings = load_model(args.model, args.device)
    diffusion = Diffusion(settings.prediction)
    scheduler = diffusion.scheduler(args.sampler)
    scheduler.set_timesteps(args.steps)

    # Everything that depends on the texts alone, computed once.
    prepared = model.prepare(texts, [args.negative] * len(texts) if args.negative else None)

    # A rule may remember between steps (APG's momentum does): its state belongs to one run of the sampler.
    how = guided(args.guidance, args.cond_scale, settings.prediction)
    state = how.rule.init_state()

    generator = torch.Generator().manual_seed(args.seed)
    x = torch.randn(len(texts), 3, settings.image_size, settings.image_size, generator=generator).to(args.device)
    for step, timestep in enumerate(tqdm(scheduler.timesteps, desc='sample', unit='step')):
        time = diffusion.network_time(timestep)
        sigma, alpha = diffusion.levels(time)
        prediction = model(
            x,
            x.new_full((len(x),), time),
            text_condition=prepared,
            cond_scale=how.scale(step / args.steps, sigma=sigma) if isinstance(how.scale, guidance.Schedule) else how.scale,
            guidance=how.rule,
            guidance_state=state,
            guidance_kwargs={'sigma': sigma, 'alpha': alpha, 'progress': step / args.steps},
            weak=how.weak,
        )
        x = scheduler.step(prediction, timestep, x).prev_sample

    images = ((x + 1) / 2).clamp(0, 1).cpu()
    save_samples(folder / 'grid.png', images, texts, f'{args.guidance}, scale {args.cond_scale:g}, seed {args.seed}')
    save_each(folder, images)
    print(f'Grid: {folder / "grid.png"}')
    return images


def read_prompts(args: argparse.Namespace) -> list[str]:
    """The prompts of the command line and of the file, in this order."""
    texts = list(args.prompt)
    if args.prompts is not None:
        if not args.prompts.is_file():
            raise ConfigError(f'there is no file {str(args.prompts)!r}: pass a text file with one prompt a line as --prompts')
        texts += [line.strip() for line in args.prompts.read_text(encoding='utf-8').splitlines() if line.strip()]
    if not texts:
        raise ConfigError('nothing to draw: pass one or more prompts, or --prompts FILE with one a line')
    return texts


def save_each(folder: Path, images: Tensor) -> None:
    """Every image as a PNG of its own size: `0000.png`, `0001.png`, ..."""
    from PIL import Image

    for number, image in enumerate((images * 255).round().byte()):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f'{number:04d}.png')


def build_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('prompt', nargs='*', help='what to draw')
    parser.add_argument('--prompts', type=Path, metavar='FILE', help='a text file with one prompt a line')
    parser.add_argument('--count', type=int, default=4, metavar='N', help='images per prompt (default: %(default)s)')
    parser.add_argument('--negative', metavar='TEXT', help='a text to steer away from')
    parser.add_argument('--cond-scale', type=float, default=3.0, metavar='S', help='guidance scale (default: %(default)s)')
    parser.add_argument('--guidance', choices=tuple(RULES), default='cfg', help='guidance rule (default: %(default)s)')
    parser.add_argument('--sampler', help='euler or dpm++ for flow; ddim, ddpm or dpm++ for v and epsilon')
    parser.add_argument('--steps', type=int, default=25, help='of the sampler (default: %(default)s)')
    parser.add_argument('--model', type=Path, default=SHIPPED, metavar='FILE', help='a checkpoint (default: the one shipped)')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, ... (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='(default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('runs/sample'), help='folder for the images (default: %(default)s)')
    return parser


if __name__ == '__main__':
    try:
        main()
    except CFGError as error:
        raise SystemExit(f'sample.py: error: {error}') from None
