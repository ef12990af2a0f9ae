"""Train a text-to-image model of any size: on the drawn world, on a folder of captioned pictures, or on a dataset.

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
from typing import TYPE_CHECKING, Any

from cfg_demo.folders import needs, use_threads, writable, writable_file
from cfg_demo.image.settings import (
    CONDITIONS,
    DROPOUTS,
    KINDS,
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
from classifier_free_guidance_pytorch.errors import ConfigError

if TYPE_CHECKING:
    from cfg_demo.image.training import Encodings, Trainer, Watcher

EPILOG = """\
Writes to --out: model.safetensors, training.safetensors (to resume), samples.png, curve.png.

examples:
  cfg-demo train-on shapes --out runs/mine                  the drawn world, on a CPU
  cfg-demo train-on shapes --out runs/mine --resume         after an interruption
  cfg-demo train-on photos/ --out runs/photos --image-size 64 --network-size base --model-types t5 --device cuda
"""


def run(arguments: argparse.Namespace) -> Trainer:
    """Run the command; everything that can be refused is refused before the first step."""
    needs('matplotlib', 'samples are drawn')
    needs('diffusers', 'noise is scheduled')
    import torch

    from cfg_demo.image.batches import StepSampler, batches
    from cfg_demo.image.checkpoint import save_model
    from cfg_demo.image.data import collate, open_data
    from cfg_demo.image.grid import save_curve
    from cfg_demo.image.training import train

    use_threads(arguments.threads)
    folder = writable(arguments.out)
    if arguments.ship is not None:
        writable_file(arguments.ship, '--ship')
    chosen(ModelSettings, arguments)  # refuses what no model can be, before data are opened
    data = open_data(
        arguments.data,
        size=arguments.image_size,
        caption_column=arguments.caption_column,
        image_column=arguments.image_column,
        seed=arguments.seed,
        kinds=arguments.kinds,
        told=arguments.told,
        zoom=arguments.zoom,
    )
    trainer = start(arguments, folder, kept_encodings(arguments.encodings, data))

    # Which items each step sees depends on the seed and the step, so a resumed run sees what it would have seen.
    settings, count = trainer.settings, len(data)  # type: ignore[arg-type]
    order = StepSampler(count, batch_size=settings.batch_size, steps=settings.steps, start=trainer.step, seed=settings.seed)
    few = min(16, count)
    captions = [data[count * place // few].caption for place in range(few)]  # from all over: neighbours in a folder are alike
    try:
        train(trainer, batches(data, collate, order, arguments.workers), watchers(arguments, folder, captions))
    except KeyboardInterrupt:
        trainer.save(folder)
        print(f'\ninterrupted at step {trainer.step} and saved: go on with --resume')
    save_curve(folder / 'curve.png', trainer.losses)
    if arguments.ship is not None:
        about = {'training': asdict(settings), 'data': arguments.data, 'kinds': arguments.kinds, 'torch': torch.__version__}
        save_model(trainer.average, trainer.model_settings, arguments.ship, half=True, about=about)
    print(f'Model: {folder / MODEL_FILE}  Samples: {folder / "samples.png"}  Curve: {folder / "curve.png"}')
    return trainer


def start(arguments: argparse.Namespace, folder: Path, encodings: Encodings | None = None) -> Trainer:
    """A trainer, fresh or resumed. A checkpoint in the folder is never overwritten unasked."""
    from cfg_demo.image.training import Trainer

    settings = chosen(TrainSettings, arguments, steps=arguments.train_steps)
    trainer = Trainer(chosen(ModelSettings, arguments), settings, encodings)
    if arguments.resume:
        trainer.resume(folder)
    elif (folder / TRAINING_FILE).exists():
        raise ConfigError(f'{str(folder)!r} holds a run already: pass --resume to go on with it, or another folder as --out')
    elif arguments.start_from is not None:
        fresh = trainer.start_from(arguments.start_from)
        print(f'Starts from {arguments.start_from}' + (f'; fresh are {", ".join(fresh)}' if fresh else ''))
    return trainer


def kept_encodings(folder: Path | None, data: Any) -> Encodings | None:
    """The encodings of all captions of a data set, from a store of `cfg-embed`.

    Raises:
        ConfigError: the captions are drawn as they are needed, or one is not in the store.
    """
    if folder is None:
        return None
    from classifier_free_guidance_pytorch.corpus import EmbeddingStore

    store = EmbeddingStore(folder, check_rows=False)
    captions = getattr(data, 'captions', None)
    if captions is None:
        raise ConfigError('the captions of the drawn world are new in every step, so --encodings cannot hold them: leave it out')
    lacking = next((caption for caption in captions if caption not in store), None)
    if lacking is not None:
        raise ConfigError(
            f'the caption {lacking!r} is not in the store {str(folder)!r}: embed the captions of this data set with cfg-embed'
        )
    return store.__getitem__


def watchers(arguments: argparse.Namespace, folder: Path, captions: Sequence[str]) -> list[Watcher]:
    """What looks on: saves, draws, and logs if asked to."""
    from cfg_demo.image.watchers import DrawSamples, LogToTensorBoard, SaveCheckpoint

    found: list[Watcher] = [SaveCheckpoint(folder, arguments.save_every), DrawSamples(folder, captions, arguments.draw_every)]
    return [*found, LogToTensorBoard(folder)] if arguments.tensorboard else found


def chosen(kind: Any, arguments: argparse.Namespace, **others: Any) -> Any:
    """Settings from the options of their names; what was not given keeps its default."""
    given = {field.name: getattr(arguments, field.name, None) for field in fields(kind)} | others
    return kind(**{name: value for name, value in given.items() if value is not None})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options. Those of the model and of the training are the fields of `ModelSettings` and `TrainSettings`."""
    data = parser.add_argument_group('data')
    data.add_argument(
        'data',
        nargs='?',
        default='shapes',
        help="'shapes' (drawn as needed, the default), a folder, or a Hugging Face dataset",
    )
    data.add_argument('--caption-column', metavar='NAME', help='of a table or a dataset')
    data.add_argument('--image-column', metavar='NAME', help='of a table or a dataset')
    data.add_argument('--kinds', nargs='+', choices=KINDS, help='of the drawn scenes; twice is more often (default: all)')
    data.add_argument(
        '--told', type=float, metavar='P', help='how often a drawn caption tells a place, a background; at 1 all (default: 0.4)'
    )
    data.add_argument('--zoom', type=float, metavar='X', help='drawn shapes so many times larger, one in a picture (default: 1)')
    data.add_argument('--encodings', type=Path, metavar='STORE', help='of the captions, by cfg-embed: no step runs the encoder')
    data.add_argument('--workers', type=int, default=0, help='processes that load data (default: %(default)s)')

    model = parser.add_argument_group('model')
    model.add_argument('--network', choices=NETWORKS, help='(default: unet)')
    model.add_argument('--network-size', choices=NETWORK_SIZES, help='(default: small)')
    model.add_argument('--image-size', type=int, default=32, metavar='PIXELS', help='width and height (default: %(default)s)')
    model.add_argument('--condition', choices=CONDITIONS, help='how the text enters (default: attention)')
    model.add_argument(
        '--model-types', nargs='+', metavar='TYPE', help='text encoders: mini, english, t5, clip, bge, hf (default: mini)'
    )
    model.add_argument('--model-names', nargs='+', metavar='NAME', help='a name or path for each encoder')
    model.add_argument('--null', choices=NULLS, help='what stands for no text (default: learned)')
    model.add_argument('--prediction', choices=PREDICTIONS, help='what the network predicts (default: flow)')

    training = parser.add_argument_group('training')
    training.add_argument('--train-steps', type=int, default=7200, metavar='N', help='optimizer steps (default: %(default)s)')
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
    results.add_argument('--ship', type=Path, metavar='FILE', help='also write the model, in half precision, to this file')
    results.add_argument('--tensorboard', action='store_true', help='also write losses for TensorBoard')
