from pathlib import Path

import numpy as np
import polars as pl
import torch

from distill.students.config import DcnConfig
from distill.students.dcn import DeepCrossNetwork
from distill.students.dcn_network import DcnNetwork
from distill.students.training.example_store import write_store


def _network() -> DeepCrossNetwork:
    torch.manual_seed(0)
    return DeepCrossNetwork(
        buckets=50, slots=3, dense=2, labels=4, embedding_dim=5, cross_layers=2, hidden=(8,), dropout=0.0
    )


def test_means_without_the_padding_are_those_with_it_in_value_and_gradient() -> None:
    network = _network()
    lengths = torch.tensor([[3, 0, 1], [7, 2, 0]])  # an empty slot in the middle and one at the end
    mask = (torch.arange(7) < lengths[..., None]).float()
    ids = torch.randint(0, 50, (2, 3, 7)) * mask.long()
    weight = torch.randn(2, 3, 5)
    gradients = []
    for means in (network._means, network._padded_means):
        network.zero_grad()
        found = means(ids, mask)
        (found * weight).sum().backward()
        assert network.embedding.weight.grad is not None
        gradients.append((found.detach(), network.embedding.weight.grad.clone()))
    (plain, plain_grad), (padded, padded_grad) = gradients
    torch.testing.assert_close(plain, padded)
    torch.testing.assert_close(plain_grad, padded_grad)
    assert (plain[0, 1] == 0).all() and (plain[1, 2] == 0).all()


def test_a_batch_of_nothing_but_empty_slots_is_scored() -> None:
    network = _network()
    scores = network(torch.zeros(2, 3, 1, dtype=torch.int64), torch.zeros(2, 3, 1), torch.zeros(2, 2))
    torch.testing.assert_close(scores[0], scores[1])
    assert scores.shape == (2, 4)


def test_numbers_are_standardised_alike_from_memory_and_from_disk(tmp_path: Path) -> None:
    texts = {"query": ["red lamp", "40 inch tv", "shoe"], "title": ["Lamp, red", "tv stand", "a kettle"]}
    networks = [DcnNetwork(DcnConfig(buckets=64), labels=2, inputs=["query", "title"]) for _ in range(2)]
    examples = networks[0].read(pl.DataFrame(texts))
    store = write_store(tmp_path / "store", [examples[:2], examples[2:]], network=networks[0])
    for network, given in zip(networks, (examples, store), strict=True):
        network.prepare(given)
    first, second = (network.model.state_dict() for network in networks)
    assert torch.equal(first["dense_mean"], second["dense_mean"])
    assert torch.equal(first["dense_scale"], second["dense_scale"])
    torch.testing.assert_close(
        first["dense_mean"], torch.from_numpy(np.stack([example["dense"] for example in examples])).mean(dim=0)
    )
