"""Modules of other libraries, unmodified: diffusers' U-Net, PEFT's adapters, and two processes."""

import copy
import os
import tempfile
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from classifier_free_guidance_pytorch import text_conditioned
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision
from tests.conditioners.making import noise, randomised
from tests.modules.networks import TEXTS, following, seeded_net
from tests.tiny_models import TinyEncoder

AT = {'mid_block': 'attention', 'up_blocks.*': 'film', 'down_blocks.0': 'concat'}
INPUTS = noise(3, 1, 8, 8), torch.tensor([3, 500, 999])
CALL = {'texts': TEXTS, 'cond_scale': 3.0}


@pytest.fixture
def unet():
    repair_torchvision()
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=('DownBlock2D', 'AttnDownBlock2D'), up_block_types=('AttnUpBlock2D', 'UpBlock2D'), attention_head_dim=4,
    ).eval()  # fmt: skip


def test_a_unet_of_diffusers(unet, tmp_path):
    expected = unet(*INPUTS).sample
    model = text_conditioned(unet, AT, example=INPUTS, model_types=[TinyEncoder()])
    found = {name: (part.condition, part.dim, part.channel_first) for name, part in model.text_parts.items()}
    assert found == {
        'up_blocks.0': ('film', 16, True),
        'up_blocks.1': ('film', 8, True),
        'mid_block': ('attention', 16, True),
        'down_blocks.0': ('concat', 8, True),
    }
    torch.testing.assert_close(model(*INPUTS, texts=TEXTS).sample, expected, rtol=0, atol=1e-6)
    randomised(model.text_conditioner)
    cond, null = model(*INPUTS, texts=TEXTS).sample, model(*INPUTS).sample
    guided = model(*INPUTS, **CALL).sample
    torch.testing.assert_close(guided, null + 3 * (cond - null), rtol=0, atol=1e-4)
    torch.testing.assert_close(copy.deepcopy(model)(*INPUTS, **CALL).sample, guided, rtol=0, atol=0)
    model.save_pretrained(tmp_path)
    assert {'config.json', 'diffusion_pytorch_model.safetensors'} <= {path.name for path in tmp_path.iterdir()}
    plain = type(unet).__mro__[3].from_pretrained(tmp_path).eval()
    torch.testing.assert_close(plain(*INPUTS).sample, expected, rtol=0, atol=0)


def test_parts_inside_the_checkpoints_of_diffusers(unet):
    model = text_conditioned(
        unet, ['up_blocks.*.resnets.*', 'mid_block.attentions.0'], example=INPUTS, model_types=[TinyEncoder()]
    )
    randomised(model.text_conditioner)
    model.train()
    gradients = []
    for switch in (model.disable_gradient_checkpointing, model.enable_gradient_checkpointing):
        switch()
        model.zero_grad()
        (model(*INPUTS, texts=TEXTS).sample.sum() + model(*INPUTS, texts=TEXTS[::-1]).sample.square().sum()).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*gradients)


def test_adapters_of_peft():
    peft = pytest.importorskip('peft')
    x = noise(3, 5, 6)
    model = following().train()
    config = peft.LoraConfig(target_modules=r'blocks\.\d+\.linear', init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    model.text_conditioner.requires_grad_(True)  # which PEFT freezes with everything else
    adapted(x, texts=TEXTS).square().mean().backward()
    trained = {name for name, p in adapted.named_parameters() if p.grad is not None}
    assert {name for name, p in adapted.named_parameters() if p.requires_grad} == trained
    assert any('lora_A' in name for name in trained)
    assert any('text_conditioner' in name for name in trained)
    cond, null = adapted.eval()(x, texts=TEXTS), adapted(x)
    torch.testing.assert_close(adapted(x, **CALL), null + 3 * (cond - null), rtol=1e-4, atol=1e-4)


def step(rank):
    torch.manual_seed(rank)
    model = following({'blocks.*': None, 'head': 'attention'}, seeded_net(checkpointed=False), cond_drop_prob=0.2)
    parallel = DistributedDataParallel(model.train().only_text_trains())
    for _ in range(2):
        parallel.zero_grad()
        parallel(noise(2, 5, 6, seed=rank), texts=TEXTS[rank : rank + 2]).square().mean().backward()
    return {name: p.grad for name, p in model.text_conditioner.named_parameters()}


def sharded(shard):
    """The gradients of a step whose blocks, and whose module, FSDP2 shards, or not."""
    model = following({'blocks.*': None, 'head': 'attention'}, seeded_net(checkpointed=False)).train()
    if shard:
        for one in (*model.blocks, model):
            fully_shard(one, mesh=init_device_mesh('cpu', (2,)))
    model(noise(3, 5, 6), texts=TEXTS).square().mean().backward()
    return {name: p.grad.full_tensor() if shard else p.grad for name, p in model.named_parameters()}


def saved_in_parts(folder):
    """Save and load a model whose weights are shared out among the processes."""
    mesh, call = init_device_mesh('cpu', (2,)), {'texts': TEXTS, 'cond_scale': 3.0}
    one, other = following(), following(seed=5)
    expected = one(noise(3, 5, 6), **call)
    for model in (one, other):
        fully_shard(model, mesh=mesh)
    one.save_text(f'{folder}/text.safetensors')
    dist.barrier()
    torch.testing.assert_close(other.load_text(f'{folder}/text.safetensors')(noise(3, 5, 6), **call), expected)
    torch.testing.assert_close(following(seed=5).load_text(f'{folder}/text.safetensors')(noise(3, 5, 6), **call), expected)


def what_is_wrapped_already():
    """New layers would train apart in every process."""
    sharded = fully_shard(seeded_net(), mesh=init_device_mesh('cpu', (2,)))
    for wrapped, name in ((sharded, 'fully_shard'), (DistributedDataParallel(seeded_net()), 'DistributedDataParallel')):
        with pytest.raises(ConfigError, match=f'this module is under {name} already, which would leave the new layers out'):
            text_conditioned(wrapped, '**.blocks.*', example=noise(3, 5, 6), model_types=[TinyEncoder()])


def run(rank, folder):
    meeting = f'file://{folder}/rendezvous'
    dist.init_process_group('gloo', init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    torch.save(step(rank), f'{folder}/{rank}.pt')
    torch.testing.assert_close(sharded(True), sharded(False))
    saved_in_parts(folder)
    what_is_wrapped_already()
    dist.destroy_process_group()


def test_two_processes(monkeypatch):
    monkeypatch.setitem(os.environ, 'OMP_NUM_THREADS', '1')
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run, (folder,), nprocs=2)
        one, two = (torch.load(f'{folder}/{rank}.pt') for rank in range(2))
    assert all(grad is not None for grad in one.values())
    torch.testing.assert_close(one, two, rtol=0, atol=0)
