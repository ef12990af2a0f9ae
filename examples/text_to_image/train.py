"""Text to image, 1 of 3: train a network to draw what a text says.

    python examples/text_to_image/train.py --out runs/mine                                     # the drawn world, on a CPU
    python examples/text_to_image/train.py --out runs/mine --resume                            # after an interruption
    python examples/text_to_image/train.py --out runs/cats --data photos/ --image-size 64 \\
        --network-size base --model-types t5 --precision bfloat16 --device cuda                # a folder of captioned images

Diffusion models learn to undo noise. A picture is mixed with noise, the network sees the mixture, the amount of noise and the
caption, and predicts what would lead back. To guide later, it also has to know what it would predict without a caption: so
training takes the caption away now and then, and puts the null condition in its place. The library does that; see
`Trainer.learn` for the whole of a training step.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from cfg_demo.folders import needs, writable
from cfg_demo.image.batches import StepSampler, batches
from cfg_demo.image.checkpoint import save_model
from cfg_demo.image.data import collate, open_data
from cfg_demo.image.drawing import SHIPPED
from cfg_demo.image.grid import save_curve
from cfg_demo.image.settings import (
    CONDITIONS,
    DROPOUTS,
    MODEL_FILE,
    NETWORK_SIZES,
    NETWORKS,
    NULLS,
    OPTIMIZERS,
    PRECISIONS,
    PREDICTIONS,
    TRAINING_FILE,
    ModelSettings,
    TrainSettings,
)
from cfg_demo.image.training import Trainer, Watcher, train
from cfg_demo.image.watchers import DrawSamples, LogToTensorBoard, SaveCheckpoint
from cfg_demo.shapes import KINDS
from classifier_free_guidance_pytorch.errors import CFGError, ConfigError


def main(arguments: Sequence[str] | None = None) -> Trainer:
    """Train; everything that can be refused is refused before the first step."""
    args = build_parser().parse_args(arguments)
    needs('matplotlib', 'samples are drawn')
    needs('diffusers', 'noise is scheduled')
    torch.set_num_threads(args.threads or torch.get_num_threads())
    folder = writable(args.out)
    data = open_data(
        args.data,
        size=args.image_size,
        caption_column=args.caption_column,
        image_column=args.image_column,
        seed=args.seed,
        kinds=args.kinds,
        told=args.told,
        zoom=args.zoom,
    )

    # What the model is, how it is trained, and the two together. A checkpoint in the folder is never overwritten unasked.
    trainer = Trainer(chosen(ModelSettings, args), chosen(TrainSettings, args))
    if args.resume:
        trainer.resume(folder)
    elif (folder / TRAINING_FILE).exists():
        raise ConfigError(f'{str(folder)!r} holds a run already: pass --resume to go on with it, or another folder as --out')
    elif args.start_from is not None:
        trainer.start_from(args.start_from)

    # Which items each step sees depends on the seed and the step, so a resumed run sees what it would have seen.
    order = StepSampler(len(data), batch_size=args.batch_size, steps=args.steps, start=trainer.step, seed=args.seed)  # type: ignore[arg-type]
    captions = [data[index].caption for index in range(min(16, len(data)))]  # type: ignore[arg-type]
    watchers: list[Watcher] = [SaveCheckpoint(folder, args.save_every), DrawSamples(folder, captions, args.draw_every)]
    if args.tensorboard:
        watchers.append(LogToTensorBoard(folder))
    try:
        train(trainer, batches(data, collate, order, args.workers), watchers)
    except KeyboardInterrupt:
        trainer.save(folder)
        print(f'\ninterrupted at step {trainer.step} and saved: go on with --resume')
    save_curve(folder / 'curve.png', trainer.losses)
    if args.ship:
        about = {'training': asdict(trainer.settings), 'data': args.data, 'kinds': args.kinds, 'torch': torch.__version__}
        save_model(trainer.average, trainer.model_settings, SHIPPED, half=True, about=about)
    print(f'Model: {folder / MODEL_FILE}  Samples: {folder / "samples.png"}  Curve: {folder / "curve.png"}')
    return trainer


def chosen(kind: Any, args: argparse.Namespace) -> Any:
    """Settings from the options of their names; what was not given keeps its default."""
    given = {field.name: getattr(args, field.name) for field in fields(kind) if getattr(args, field.name, None) is not None}
    return kind(**given)


def build_parser() -> argparse.ArgumentParser:
    """All options. Those of the model and of the training are the fields of `ModelSettings` and `TrainSettings`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group('data')
    data.add_argument(
        '--data', default='shapes', metavar='SOURCE', help="'shapes' (drawn as needed), a folder, or a Hugging Face dataset"
    )
    data.add_argument('--caption-column', metavar='NAME', help='of a table or a dataset')
    data.add_argument('--image-column', metavar='NAME', help='of a table or a dataset')
    data.add_argument('--kinds', nargs='+', choices=tuple(KINDS), help='of the drawn scenes; twice is more often (default: all)')
    data.add_argument(
        '--told', type=float, metavar='P', help='how often a drawn caption tells a place, a background; at 1 all (default: 0.4)'
    )
    data.add_argument('--zoom', type=float, metavar='X', help='drawn shapes so many times larger, one in a picture (default: 1)')
    data.add_argument('--workers', type=int, default=0, help='processes that load data (default: %(default)s)')

    model = parser.add_argument_group('model')
    model.add_argument('--network', choices=NETWORKS, help='(default: unet)')
    model.add_argument('--network-size', choices=NETWORK_SIZES, help='(default: small)')
    model.add_argument('--image-size', type=int, default=32, metavar='PIXELS', help='width and height (default: %(default)s)')
    model.add_argument('--condition', choices=CONDITIONS, help='how the text enters (default: attention)')
    model.add_argument('--model-types', nargs='+', metavar='TYPE', help='text encoders: mini, t5, clip, bge, hf (default: mini)')
    model.add_argument('--model-names', nargs='+', metavar='NAME', help='a name or path for each encoder')
    model.add_argument('--null', choices=NULLS, help='what stands for no text (default: learned)')
    model.add_argument('--prediction', choices=PREDICTIONS, help='what the network predicts (default: flow)')

    training = parser.add_argument_group('training')
    training.add_argument('--steps', type=int, default=7200, help='optimizer steps (default: %(default)s)')
    training.add_argument('--batch-size', type=int, default=32, help='images per step (default: %(default)s)')
    training.add_argument('--cond-drop-prob', type=float, metavar='P', help='share of captions dropped (default: 0.15)')
    training.add_argument('--dropout', choices=DROPOUTS, help='drop captions one by one or for a whole batch (default: sample)')
    training.add_argument('--optimizer', choices=OPTIMIZERS, help='(default: muon)')
    training.add_argument('--learning-rate', type=float, metavar='LR', help="its peak (default: the optimizer's own)")
    training.add_argument('--warm-up', type=int, metavar='STEPS', help='until the peak (default: 100)')
    training.add_argument('--time-mean', type=float, metavar='M', help='of the logit of training times (default: 0.5)')
    training.add_argument('--time-spread', type=float, metavar='S', help='their standard deviation (default: 1.4)')
    training.add_argument('--ema-decay', type=float, default=0.999, help='of the averaged weights (default: %(default)s)')
    training.add_argument('--clip', type=float, metavar='NORM', help='largest norm of a gradient (default: 1)')
    training.add_argument('--precision', choices=PRECISIONS, help='(default: auto, bfloat16 where the hardware has it)')
    training.add_argument('--device', default='cpu', help='cpu, cuda, ... (default: %(default)s)')
    training.add_argument('--threads', type=int, help="CPU threads (default: torch's own choice)")
    training.add_argument('--seed', type=int, default=0, help='of weights, data and noise (default: %(default)s)')

    results = parser.add_argument_group('results')
    results.add_argument('--out', type=Path, required=True, help='folder for checkpoints and pictures')
    results.add_argument('--resume', action='store_true', help='go on with the run in --out')
    results.add_argument('--start-from', type=Path, metavar='FILE', help='begin with the weights of this model.safetensors')
    results.add_argument('--save-every', type=int, default=500, metavar='STEPS', help='(default: %(default)s)')
    results.add_argument('--draw-every', type=int, default=500, metavar='STEPS', help='(default: %(default)s)')
    results.add_argument('--ship', action='store_true', help='also put the model, in half precision, into the package')
    results.add_argument('--tensorboard', action='store_true', help='also write losses for TensorBoard')
    return parser


if __name__ == '__main__':
    try:
        main()
    except CFGError as error:
        raise SystemExit(f'train.py: error: {error}') from None
