"""The processor is read from what the system says of it."""

from __future__ import annotations

from hiresmed.core import processor

ZEN4 = """processor\t: 0
model name\t: AMD EPYC 9R14
flags\t\t: fpu sse2 avx2 avx512f avx512_bf16

processor\t: 1
model name\t: AMD EPYC 9R14
flags\t\t: fpu sse2 avx2 avx512f avx512_bf16
"""


def test_name_and_features_are_those_of_the_systems_file(monkeypatch):
    monkeypatch.setattr(processor.Path, "read_text", lambda *_, **__: ZEN4)
    assert processor.processor_name() == "AMD EPYC 9R14"
    assert processor.processor_features() == ["AVX2", "AVX512", "AVX512-BF16"]


def test_without_that_file_the_name_is_pythons_and_nothing_is_claimed(monkeypatch):
    def none(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(processor.Path, "read_text", none)
    monkeypatch.setattr(processor.platform, "processor", lambda: "arm")
    assert processor.processor_name() == "arm" and processor.processor_features() == []
