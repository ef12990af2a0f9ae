"""The two towers of `mini`, its tokenizer, and the joint space in which they meet.

The text tower is a small CLIP text model as transformers knows it. A caption is summed up by the mean of the last hidden state
over its tokens, the start and end marks included: just what the encoder hands to conditioners as its pooled feature, so that
feature, and not the state of one token, is what training shapes. The image tower is a small residual network that keeps where
things are: its last map is flattened, not averaged.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cfg_demo.mini.pairs import PIXELS, words
from classifier_free_guidance_pytorch import text
from classifier_free_guidance_pytorch.errors import MissingDependencyError
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

PAD, UNKNOWN, START, END = '[PAD]', '[UNK]', '[START]', '[END]'
MARKS = (',', '.', ':', ';', '!', '?', '-', "'", '"', '(', ')')
WIDTH, CONTEXT = 128, 40  # of the text tower
CHANNELS, MIND = 96, 192  # of the image tower: of its map, and of its last hidden layer
TEXT_WEIGHTS = Path(text.__file__).parent / 'mini_weights'
IMAGE_WEIGHTS = Path(__file__).parent / 'image_tower.safetensors'


def build_tokenizer() -> Any:
    """A tokenizer of whole words in lower case; every mark is a token of its own, every other word is `[UNK]`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = (PAD, UNKNOWN, START, END, *MARKS, *words())
    ids = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f'{START} $A {END}', pair=f'{START} $A {END} $B {END}', special_tokens=[(START, ids[START]), (END, ids[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=CONTEXT,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        padding_side='right',
    )


def build_text_tower(vocabulary: int) -> Any:
    """A CLIP text model with random weights: 4 layers of width 128, about 0.7M parameters."""
    repair_torchvision()
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        projection_dim=WIDTH,
        hidden_act='gelu',
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    return CLIPTextModel(config)


class Block(nn.Module):
    """Two convolutions and a way around them; the second starts at zero scale, so a block starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm, self.second_norm = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        nn.init.zeros_(self.second_norm.weight)

    def forward(self, hiddens: Tensor) -> Tensor:
        """`(b, c, h, w)` to the same."""
        inner = F.gelu(self.first_norm(self.first(hiddens)))
        return F.gelu(hiddens + self.second_norm(self.second(inner)))


def _down(given: int, made: int) -> nn.Sequential:
    """Half the width and height."""
    return nn.Sequential(nn.Conv2d(given, made, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(made), nn.GELU())


class ImageTower(nn.Module):
    """Pictures to features: 0.6M parameters, 32 x 32 pixels; larger pictures are averaged down first."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.eye = nn.Sequential(
            nn.Conv2d(3, channels // 4, 3, padding=1),
            nn.GELU(),
            _down(channels // 4, channels // 2),  # 16 x 16
            _down(channels // 2, channels),  # 8 x 8
            Block(channels),
        )
        self.mind = nn.Sequential(
            _down(channels, 64),  # 4 x 4
            Block(64),
            nn.Flatten(),
            nn.Linear(64 * (PIXELS // 8) ** 2, MIND),
            nn.GELU(),
        )
        self.head = nn.Linear(MIND, WIDTH)

    def see(self, images: Tensor) -> Tensor:
        """The map `(b, 96, 8, 8)` of pictures `(b, 3, s, s)`: what is where."""
        if images.shape[-1] != PIXELS:
            images = F.adaptive_avg_pool2d(images, PIXELS)
        seen: Tensor = self.eye(2 * images - 1)
        return seen

    def forward(self, images: Tensor) -> Tensor:
        """Features of pictures.

        Args:
            images: `(b, 3, s, s)` from 0 to 1, `s` a multiple of 32.

        Returns:
            `(b, 128)`, not normalised.
        """
        features: Tensor = self.head(self.mind(self.see(images)))
        return features


class JointSpace(nn.Module):
    """Where captions and pictures meet: the image tower, a projection of the pooled text, and the sharpness of the match."""

    def __init__(self) -> None:
        super().__init__()
        self.image_tower = ImageTower()
        self.text_projection = nn.Linear(WIDTH, WIDTH, bias=False)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(14.0)))

    def place_images(self, images: Tensor) -> Tensor:
        """Unit vectors `(b, 128)` of pictures `(b, 3, s, s)`."""
        return F.normalize(self.image_tower(images), dim=-1)

    def place_texts(self, pooled: Tensor) -> Tensor:
        """Unit vectors `(b, 128)` of pooled text features `(b, 128)`."""
        return F.normalize(self.text_projection(pooled), dim=-1)


def pool(tokens: Tensor, mask: Tensor) -> Tensor:
    """The mean of `(b, n, d)` over the tokens that the mask `(b, n)` keeps: `(b, d)`."""
    keep = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * keep).sum(1) / keep.sum(1)


def load_joint_space(path: Path = IMAGE_WEIGHTS) -> JointSpace:
    """The trained image tower and text projection, in float32, ready to use.

    Raises:
        MissingDependencyError: the file is not there.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise MissingDependencyError(
            f'the weights of the image tower are not at {path}. Reinstall the package, or train them anew.'
        )
    space = JointSpace()
    space.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
    )
    return space.eval().requires_grad_(False)
