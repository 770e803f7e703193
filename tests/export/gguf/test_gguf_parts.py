"""GGUF builds as they are opened while they are made: like the finished export, or with an eye on what weights read."""

import numpy as np
import pytest

from switchkd.export.checkpoint import Checkpoint
from switchkd.export.exporter import exporter_for
from switchkd.export.gguf.importance import ImportanceCollector, collect
from switchkd.export.parts import Build
from switchkd.export.samples import Sample
from switchkd.manifest import Manifest
from switchkd.runtime.engines.llama import engine as llama_engine
from switchkd.runtime.engines.opening import open_engine, open_parts
from switchkd.runtime.engines.parts import RunOptions


def test_importance_is_the_mean_square_of_what_a_weight_reads(shelf, tmp_path):
    """The first block's queries read the normed embeddings, which are easily computed by hand."""
    import torch

    reader, exporter = Checkpoint(shelf.checkpoint()), exporter_for("gguf")
    build = exporter.write(reader, exporter.plan(reader, "f32", None), tmp_path)
    sample = Sample([{"role": "user", "content": "how many cars ?"}])
    collector = ImportanceCollector()
    with open_parts(exporter.parts(reader, build), RunOptions(1, observe=collector)) as engine:
        importance = collect(engine, collector, [sample], [])
        ids = engine.prompt.encode(sample.messages, image_tokens=16).ids
    embeds = torch.from_numpy(reader.read("language_model.embed_tokens.weight")[ids])
    scale = torch.rsqrt(embeds.pow(2).mean(-1, keepdim=True) + reader.text["rms_norm_eps"])
    inputs = embeds * scale * torch.from_numpy(reader.read("language_model.layers.0.input_layernorm.weight"))
    np.testing.assert_allclose(importance["blk.0.attn_q.weight"], inputs.pow(2).mean(0), rtol=1e-4)


@pytest.mark.parametrize("quant", ["q4_0", "q8"])
def test_an_export_is_proved_as_it_is_run(shelf, monkeypatch, quant):
    """The same ways to hold its weights and its memory, or the proof would be another configuration's."""
    folder, checkpoint = shelf.export("gguf", quant), Checkpoint(shelf.checkpoint())
    manifest = Manifest.load(folder)
    files = {role: folder / manifest.file_of(role) for role in ("language", "vision")}
    build = Build(files, {"language": manifest.quant, "vision": manifest.vision_quant})
    ways = []
    for kind in (llama_engine.LlamaModel, llama_engine.LlamaLanguage):
        usual = kind.__init__

        def noted(self, *arguments, usual=usual, **settings):
            plain = [each for each in arguments if not isinstance(each, llama_engine.LlamaModel)]
            ways.append((type(self), plain, settings))
            usual(self, *arguments, **settings)

        monkeypatch.setattr(kind, "__init__", noted)
    with exporter_for("gguf").open(checkpoint, build, threads=1):
        proved, ways = ways, []
    with open_engine(folder, threads=1):
        assert ways == proved and ways[0][2]["mapped"] == (quant == "q8")
