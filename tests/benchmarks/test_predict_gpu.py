"""The benchmark of prediction on a GPU says where there is none, and its steps run without one."""

import re

import pytest
import torch


def test_no_gpu_is_said(load, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    load("predict_gpu").main([])
    assert "no GPU" in capsys.readouterr().out


@pytest.mark.long
def test_its_steps_run_on_the_processor(load, capsys):
    shapes = ["--shape", "3,64,80", "--tile", "2,64,64"]
    load("predict_gpu").main(["--device", "cpu", *shapes])
    text = capsys.readouterr().out
    rates = [float(rate) for rate in re.findall(r"([\d.e+-]+) Mvoxels/s", text)]
    assert len(rates) == 2
    assert min(rates) > 0
    assert re.search(r"matrices: [\d.]+ TFLOP/s", text)
    assert "(500, 4096, 4096) would take" in text
