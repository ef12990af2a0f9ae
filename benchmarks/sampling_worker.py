"""One side of the sampling comparison, in a process of its own: it obeys requests, one JSON per line, until its input ends.

    python -m benchmarks.sampling_worker '{"t5": folder, "clip": folder, "weights": folder, "baseline": folder or null, ...}'

The 0.7.1 release has the import name of this one, so each needs its own process. Both run the same code: networks whose forward
is decorated with `classifier_free_guidance`, and a deterministic DDIM loop (https://arxiv.org/abs/2010.02502, equation 12).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.bodies import BODIES, TINY, fill_zeros, noisy

SCALE = 3.0
Predict = Callable[[Tensor, Tensor], Tensor]


def use_baseline(folder: str) -> None:
    """From now on, `import classifier_free_guidance_pytorch` finds the release in the folder.

    torchvision is repaired where it needs that, which the release does not do, and transformers 5's tokenizers get back the
    method that it calls.
    """
    from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

    repair_torchvision()
    for name in [name for name in sys.modules if name.partition('.')[0] == 'classifier_free_guidance_pytorch']:
        del sys.modules[name]
    sys.path.insert(0, folder)
    from transformers import PreTrainedTokenizerBase

    if not hasattr(PreTrainedTokenizerBase, 'batch_encode_plus'):
        PreTrainedTokenizerBase.batch_encode_plus = lambda tokenizer, texts, **options: tokenizer(texts, **options)


def build(name: str, setup: dict[str, Any]) -> Any:
    """A network conditioned by FiLM on T5 and CLIP together, with the weights that both sides share."""
    from classifier_free_guidance_pytorch import TextConditioner, classifier_free_guidance

    class Guided(BODIES[name]):
        @classifier_free_guidance
        def forward(self, x: Tensor, t: Tensor, cond_fns: Any) -> Tensor:
            return self.run(x, t, cond_fns)

    torch.manual_seed(0)
    network = Guided(**(TINY[name] if setup['tiny'] else {}))
    network.text_conditioner = TextConditioner(
        hidden_dims=network.hidden_dims,
        model_types=('t5', 'clip'),
        model_names=(setup['t5'], f'local-dir:{setup["clip"]}'),
        hiddens_channel_first=network.channel_first,
        cond_drop_prob=0.0,
    )
    weights = Path(setup['weights']) / f'{name}.pt'
    if weights.exists():
        network.load_state_dict(torch.load(weights))
    else:
        fill_zeros(network)
        torch.save(network.state_dict(), weights)
    return network.eval().to(setup['device'])


def sample(predict: Predict, x: Tensor, steps: int) -> Tensor:
    """DDIM from noise to sample."""
    alphas = torch.linspace(0.01, 0.999, steps + 1, device=x.device)
    for now, following in pairwise(alphas):
        noise = predict(x, now.expand(x.shape[0]))
        clean = (x - (1 - now).sqrt() * noise) / now.sqrt()
        x = following.sqrt() * clean + (1 - following).sqrt() * noise
    return x


def with_texts(network: Any, texts: list[str]) -> Predict:
    """Texts at every step, as in the README."""
    return lambda x, t: network(x, t, texts=texts, cond_scale=SCALE)


def with_prepared(network: Any, texts: list[str]) -> Predict:
    """What depends on the text alone, done before the first step."""
    prepared = network.text_conditioner.prepare(texts)
    return lambda x, t: network(x, t, text_condition=prepared, cond_scale=SCALE)


def with_batched(network: Any, texts: list[str]) -> Predict:
    """Prepared, and both branches in one pass."""
    prepared = network.text_conditioner.prepare(texts)
    return lambda x, t: network(x, t, text_condition=prepared, cond_scale=SCALE, cfg_batched=True)


def by_hand_loop(network: Any, texts: list[str]) -> Predict:
    """As diffusers' pipelines do: encode once, one pass on the doubled batch in every step."""
    from benchmarks.by_hand import guided_batched

    encodings = encode_by_hand(network.text_conditioner.text_models, texts)
    plain = network.conditioned_by_hand
    return lambda x, t: guided_batched(plain, x, t, encodings, SCALE)


def encode_by_hand(models: Any, texts: list[str]) -> list[Any]:
    """The pooled features of T5 and CLIP, with their own libraries."""
    from classifier_free_guidance_pytorch import TextEncoding

    t5, clip = models
    device = next(t5.model.parameters()).device
    batch = t5.tokenizer(texts, padding=True, return_tensors='pt').to(device)
    tokens = t5.model(**batch).last_hidden_state
    mask = batch['attention_mask'].bool()
    mean = (tokens * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    pooled, clip_tokens = clip.model(clip.tokenizer(texts).to(device))
    pooled = torch.nn.functional.normalize(pooled, dim=-1)
    all_real = torch.ones(clip_tokens.shape[:2], dtype=torch.bool, device=device)  # FiLM reads no tokens
    return [TextEncoding(tokens, mask, mean), TextEncoding(clip_tokens, all_real, pooled)]


WAYS = {'texts': with_texts, 'prepared': with_prepared, 'batched': with_batched, 'by hand': by_hand_loop}


def add_plain_twin(name: str, network: Any, tiny: bool) -> None:
    """Beside a network, the same conditioned by hand, with its weights."""
    from benchmarks.networks import BY_HAND

    plain = BY_HAND[name]('film', network.text_conditioner.dim_latent, **(TINY[name] if tiny else {}))
    plain.load_state_dict(network.state_dict())
    network.__dict__['conditioned_by_hand'] = plain.eval().to(network.text_conditioner.device)  # no submodule of it


@torch.inference_mode()
def obey(networks: dict[str, Any], request: dict[str, Any]) -> dict[str, float]:
    """Sample as asked; seconds from texts to sample."""
    network, texts = networks[request['network']], request['texts']
    x, _ = noisy(network, len(texts), network.text_conditioner.device)
    start = time.perf_counter()
    x = sample(WAYS[request['way']](network, texts), x, request['steps'])
    if x.is_cuda:
        torch.cuda.synchronize()
    spent = time.perf_counter() - start
    if 'save' in request:
        torch.save(x.cpu(), request['save'])
    return {'seconds': spent}


def main() -> None:
    """Answer requests on the standard output; whatever libraries print goes to the standard error."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    setup = json.loads(sys.argv[1])
    if setup['baseline']:
        use_baseline(setup['baseline'])
    torch.set_num_threads(setup['threads'])
    networks = {name: build(name, setup) for name in setup['networks']}
    if not setup['baseline']:
        for name, network in networks.items():
            add_plain_twin(name, network, setup['tiny'])
    import classifier_free_guidance_pytorch

    print(json.dumps({'package': classifier_free_guidance_pytorch.__file__}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(obey(networks, json.loads(line))), file=answers, flush=True)


if __name__ == '__main__':
    main()
