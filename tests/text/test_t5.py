"""T5 and its relatives, loaded from a cache under the names that users load."""

import pytest
import torch

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text import build_encoder
from classifier_free_guidance_pytorch.text.t5 import T5Adapter
from tests.releases import OLDER_TORCH

SHORT, LONG = 'a red ball', 'the tiny green circle chasing after a yellow triangle above a round ball'


def reference(folder, text):
    """transformers itself: the whole model's encoder, one text, no padding."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors='pt')['input_ids']
    with torch.no_grad():
        return AutoModelForSeq2SeqLM.from_pretrained(folder).get_encoder()(input_ids=ids).last_hidden_state[0]


@pytest.mark.parametrize('model_type', ['t5', 'mt5', 'umt5', 'byt5'])
def test_tokens_and_pooled_are_transformers_own(hub, model_type):
    name = {'t5': 'google/t5-v1_1-base', 'byt5': 'google/byt5-small'}.get(model_type, f'google/{model_type}-base')
    folder = hub.byt5() if model_type == 'byt5' else hub.t5(name, model_type)
    encoding = build_encoder('t5', name).encode([SHORT, LONG])
    for row, text in enumerate((SHORT, LONG)):
        expected = reference(folder, text)
        torch.testing.assert_close(encoding.tokens[row][encoding.mask[row]], expected)
        torch.testing.assert_close(encoding.pooled[row], expected.mean(dim=0))


def test_the_default_is_t5_v1_1_base_at_256_tokens(tiny_t5):
    encoder = build_encoder()
    assert isinstance(encoder, T5Adapter)
    assert encoder.name == 'google/t5-v1_1-base'
    assert encoder.max_text_len == 256
    assert T5Adapter(max_length=1000).max_text_len == 1000  # relative positions


def test_a_local_folder_is_a_name(tiny_t5):
    by_path = T5Adapter(tiny_t5).encode([SHORT])
    torch.testing.assert_close(by_path.tokens, T5Adapter().encode([SHORT]).tokens)


def test_half_precision_keeps_the_layers_that_overflow_in_float32(tiny_t5):
    encoder = T5Adapter(dtype=torch.float16)
    assert encoder.encode([SHORT]).tokens.isfinite().all()
    dtypes = {name: parameter.dtype for name, parameter in encoder.model.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if name.endswith('.wo.weight')} == {torch.float32}
    assert torch.float16 in dtypes.values()


def test_a_model_of_another_family_is_refused(tiny_bge):
    sentence = "T5Adapter reads models of type t5, mt5, umt5, but 'BAAI/bge-base-en-v1.5' is of type 'bert': use model_types='hf'"
    with pytest.raises(ConfigError, match=sentence):
        T5Adapter('BAAI/bge-base-en-v1.5')


@pytest.mark.skipif(OLDER_TORCH, reason='torch 2.9 compiles again')
def test_a_compiled_model_encodes_new_texts_without_compiling_again(tiny_t5):
    from torch._dynamo.testing import CompileCounter

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = T5Adapter()
            self.linear = torch.nn.Linear(32, 32)

        def forward(self, x, texts):
            return self.linear(x) + self.encoder.encode(texts, device=x.device, dtype=x.dtype).pooled

    model, x, counter = Model(), torch.randn(1, 32), CompileCounter()
    compiled = torch.compile(model, backend=counter)
    for text in (SHORT, LONG):
        torch.testing.assert_close(compiled(x, [text]), model(x, [text]))
    compiled_once = counter.frame_count
    for text in ('a dog', 'one dog', 'two dogs'):
        torch.testing.assert_close(compiled(x, [text]), model(x, [text]))
    assert counter.frame_count == compiled_once <= 3
