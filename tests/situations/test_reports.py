"""Situations from public reports about other programs; each test names the report it stands for."""

from __future__ import annotations

import io

import pytest

from tests.situations.reading import IMAGE, plant, read, refusal


def rows(*lines: str) -> str:
    return "\n".join(lines) + "\n"


# Folders


def test_tiny_imagenet_has_validation_images_without_a_class(tmp_path):
    """Continvvm/continuum 222: all validation images were of one class, ``images``."""
    tree = {"train/n1/images/": 3, "train/n2/images/": 2, "train/n1/n1_boxes.txt": "00.png\t0\t0\t1\t1\n"}
    plant(
        tmp_path, {**tree, "val/images/": 4, "test/images/": 5, "val/val_annotations.txt": "00.png\tn1\t0\t0\t1\t1\n"}
    )
    found = read(tmp_path)
    assert (found.train, found.val) == ({"n1": 3, "n2": 2}, None)
    assert found.left_out["images without a class in val/"] == 4
    assert found.left_out["images without a class in test/"] == 5
    assert read(plant(tmp_path / "b", {"train/images/": 2, "train/x/": 1, "val/images/": 1})).val == {"images": 1}
    one = refusal(plant(tmp_path / "c", {"train/a/": 2, "train/b/": 1, "val/c/": 1}))
    assert "no training images of class c" in one


def test_imagenet_has_flat_validation_images(tmp_path):
    """facebookresearch/dinov2 496, huggingface/pytorch-image-models 1081."""
    found = read(
        plant(
            tmp_path,
            {"ILSVRC/Data/CLS-LOC/train/n1/": 3, "ILSVRC/Data/CLS-LOC/train/n2/": 2, "ILSVRC/Data/CLS-LOC/val/": 4},
        )
    )
    assert (found.train, found.val) == ({"n1": 3, "n2": 2}, None)
    assert found.left_out == {"images without a class in val/": 4}


def test_validation_images_of_a_class_that_is_not_trained(tmp_path):
    """ultralytics/ultralytics 9135."""
    tree = {"train/a/": 2, "train/b/": 2, "val/a/": 1, "val/b/": 1, "val/c/": 1}
    told = refusal(plant(tmp_path, tree))
    assert "no training images of class c" in told
    assert "'data.drop=[\"c\"]'" in told
    assert read(tmp_path, drop=["c"]).val == {"a": 1, "b": 1}


def test_a_class_that_is_not_validated_does_not_move_the_others(tmp_path):
    """ultralytics/ultralytics 13936: images of 90 were taken for those of 180."""
    train = {f"train/{angle}/": 2 for angle in (0, 90, 180, 270)}
    assert read(plant(tmp_path, {**train, "test/0/": 1, "test/90/": 2, "test/270/": 3})).val == {
        "0": 1,
        "270": 3,
        "90": 2,
    }


def test_classes_that_are_numbers_keep_their_order(tmp_path):
    """pytorch/vision 714, NVIDIA/DIGITS 665: 0, 1, 10, 11, 2."""
    from raysweep.data.sources import open_source
    from tests.data.drawing import section

    plant(tmp_path, {f"{n}/": 1 for n in (0, 1, 2, 10, 11)})
    assert open_source(section(tmp_path)).listing().classes == ("0", "1", "2", "10", "11")


def test_roboflows_folders(tmp_path):
    """ultralytics/ultralytics 21311: ``valid`` was passed over, and ``test`` used."""
    tree = {f"{s}/{c}/": n for s, n in (("train", 3), ("valid", 2), ("test", 1)) for c in "ab"}
    found = read(plant(tmp_path, {**tree, "README.roboflow.txt": "x"}))
    assert (found.val, found.test) == ({"a": 2, "b": 2}, {"a": 1, "b": 1})


def test_a_list_in_the_folder_of_each_split(tmp_path):
    """roboflow/supervision 625: ``_classes.csv`` with one column for each class."""
    tree: dict[str, bytes | str] = {}
    for split, n in (("train", 3), ("valid", 2), ("test", 1)):
        tree |= {f"{split}/{split}{i}.png": IMAGE for i in range(n)}
        tree[f"{split}/_classes.csv"] = rows(
            "filename, cat, dog", *(f"{split}{i}.png, {i % 2}, {1 - i % 2}" for i in range(n))
        )
    found = read(plant(tmp_path, tree))
    assert (found.train, found.val, found.test) == ({"cat": 1, "dog": 2}, {"cat": 1, "dog": 1}, {"dog": 1})


def test_masks_among_the_images_are_said(tmp_path):
    """FengheTan9/CMUNeXt 11: BUSI has ``benign (1)_mask.png`` and ``benign (1)_mask_1.png`` beside ``benign (1).png``."""
    names = [f"{c}/{c} ({i}){m}.png" for c in ("benign", "malignant") for i in (1, 2) for m in ("", "_mask", "_mask_1")]
    found = read(plant(tmp_path, dict.fromkeys(names, IMAGE)))
    assert found.train == {"benign": 6, "malignant": 6}
    assert (
        "8 images are called like another one with a word for a mask added, such as benign/benign (1)_mask.png"
        in found.notes
    )
    odd = plant(tmp_path / "b", {"a/gas_mask.png": IMAGE, "b/x.png": IMAGE})
    assert read(odd).notes == ""


def test_images_and_masks_in_two_folders_of_each_class(tmp_path):
    """Kaggle's tawsifurrahman/covid19-radiography-database."""
    plant(tmp_path, {f"{c}/{k}/": 2 for c in ("COVID", "Normal") for k in ("images", "masks")})
    assert "data.level=1 or data.level=2" in refusal(tmp_path)
    found = read(tmp_path, level=2, drop=["COVID/masks", "Normal/masks"])
    assert found.train == {"COVID/images": 2, "Normal/images": 2}


def test_a_data_set_once_more_in_itself(tmp_path):
    """Kaggle's paultimothymooney/chest-xray-pneumonia: ``chest_xray/chest_xray`` has every image again."""
    tree = {f"{p}{s}/{c}/": 2 for p in ("", "chest_xray/") for s in ("train", "test") for c in ("NORMAL", "PNEUMONIA")}
    found = read(plant(tmp_path, tree))
    assert (found.train, found.val) == ({"NORMAL": 2, "PNEUMONIA": 2}, {"NORMAL": 2, "PNEUMONIA": 2})
    assert found.left_out == {"images in folders that are no split": 8}


@pytest.mark.parametrize("more", [{}, {"test1/1.png": IMAGE}, {"test/": 2}])
def test_the_class_in_the_names_of_the_files(tmp_path, more):
    """Kaggle's Dogs vs. Cats, ``train/cat.0.jpg`` (number9473/datanmachlearn 23)."""
    plant(tmp_path, {**{f"train/{c}.{i}.png": IMAGE for c in ("cat", "dog") for i in (0, 1)}, **more})
    told = refusal(tmp_path)
    assert "The names of the files begin with cat and dog" in told
    assert "such as cat.0.png,cat, and give it as data.path" in told
    assert "begin with" not in refusal(plant(tmp_path / "b", {"train/": 4}))


def test_a_data_set_for_detection_is_refused(tmp_path):
    """ultralytics/ultralytics 8839: ``images/`` and ``labels/``, each with splits."""
    tree = {f"images/{s}/": 2 for s in ("train", "val")} | {
        f"labels/{s}/00.txt": "0 .5 .5 1 1" for s in ("train", "val")
    }
    assert "hold their images directly, not in one folder per class" in refusal(plant(tmp_path, tree))


def test_formats_that_are_not_read_are_named(tmp_path):
    """lstein/PhotoMapAI 364: ``.avif`` and ``.jfif`` were skipped; open-edge-platform/anomalib 3058: so was ``.JPG``."""
    tree = {"a/": 2, "b/x.JPG": IMAGE, "b/y.Jfif": IMAGE, "b/z.PNG": IMAGE, "a/u.avif": b"", "a/v.HEIC": b""}
    found = read(plant(tmp_path, tree))
    assert found.train == {"a": 2, "b": 3}
    assert found.left_out == {"files that are no images (1 .avif, 1 .heic)": 2}


def test_names_that_yaml_takes_for_something_else(tmp_path):
    """Kaggle's navoneel/brain-mri-images-for-brain-tumor-detection has the classes ``yes`` and ``no``."""
    from raysweep.config.load import load
    from raysweep.errors import RaysweepError

    plant(tmp_path, {"yes/": 3, "no/": 2})
    file = plant(tmp_path / "c", {"x.yaml": "experiment: {name: x}\n"}) / "x.yaml"
    settings = load(
        file, ["data.source=auto", f"data.path={tmp_path}", "data.classes=[yes, no]", "sampling.weights.yes=3"]
    )
    assert settings.data.classes == ["yes", "no"]
    assert settings.sampling.weights == {"yes": 3.0}
    with pytest.raises(RaysweepError, match="put it in quotes"):
        load(file, ["sampling.weights={yes: 3}"])


# Lists


@pytest.mark.parametrize(
    ("name", "values", "train", "val"),
    [
        ("is_valid", ("False", "True", "False"), {"a": 1, "b": 1}, {"a": 1}),
        ("is_test", ("0", "1", "0"), {"a": 1, "b": 1}, {"a": 1}),
        ("is_training_img", ("1", "0", "1"), {"a": 1, "b": 1}, {"a": 1}),
        ("Is Train", ("true", "false", "true"), {"a": 1, "b": 1}, {"a": 1}),
    ],
)
def test_a_column_that_is_true_for_one_split(tmp_path, name, values, train, val):
    """fastai's ``is_valid`` (fastai/imagenette's lists), CUB's ``is_training_img``: it was passed over in silence."""
    text = rows(
        f"path,label,{name}", *(f"img/0{i}.png,{c},{v}" for i, (c, v) in enumerate(zip("aab", values, strict=True)))
    )
    found = read(plant(tmp_path, {"img/": 3, "list.csv": text}) / "list.csv")
    assert (found.train, found.val) == (train, val)
    assert f"Split from the column {name} of list.csv" in found.notes


@pytest.mark.parametrize("name", ["fold", "kfold", "partition", "set"])
def test_folds_are_not_read_and_that_is_said(tmp_path, name):
    """CelebA's ``partition`` of 0, 1, 2, and the folds of many Kaggle lists."""
    text = rows(f"path,label,{name}", "img/00.png,a,0", "img/01.png,b,1", "img/02.png,a,2")
    found = read(plant(tmp_path, {"img/": 3, "list.csv": text}) / "list.csv")
    assert (found.train, found.val) == ({"a": 2, "b": 1}, None)
    assert f"Not read: the column {name} of list.csv." in found.notes


@pytest.mark.parametrize(
    ("labels", "several"),
    [
        (["Mass", "Mass|Effusion", "Effusion", "No Finding", "Effusion|Mass"], 2),
        (["1;2", "2", "1", "3", "3"], 1),
        (["scab", "scab rust", "rust", "healthy", "scab rust"], 1),
        (["a|b", "b|c", "c|a", "a|b", "b|c"], 3),
        (["New York", "New Delhi", "York", "Salt, fine", "Sugar, fine"], 0),
    ],
)
def test_several_classes_in_one_field_are_refused(tmp_path, labels, several):
    """NIH ChestX-ray14's ``Finding Labels`` (weka511/hpa-scc 4) and Plant Pathology 2021: combinations became classes."""
    text = rows("image\tlabels", *(f"0{i}.png\t{label}" for i, label in enumerate(labels)))
    path = plant(tmp_path, {"": len(labels), "list.tsv": text}) / "list.tsv"
    if not several:
        assert len(read(path).train) == len(set(labels))
        return
    assert f"{several} class{'es' * (several > 1)} that seem{'s' * (several == 1)} to be several at once" in refusal(
        path
    )
    assert len(read(path, classes=sorted(set(labels))).train) == len(set(labels))
    if several < 3:
        alone = sorted({x for x in labels if not set("|; ") & set(x) or x == "No Finding"})
        assert sorted(read(path, classes=alone).train) == alone


def test_one_row_for_each_box(tmp_path):
    """ultralytics/yolov5 1481, Tobias-Fischer/rt_gene 56: the same image in several rows, with several classes."""
    text = rows("image_id,class_name", "00,a", "00,a", "00,b", "01,b", "02,a")
    notes = read(plant(tmp_path, {"img/": 3, "list.csv": text}) / "list.csv").notes
    assert "1 file is in two classes: 00 as a and b." in notes
    assert "1 file is read more than once: 00 is 00." in notes


def test_ids_that_are_numbers_keep_their_zeros(tmp_path):
    """fastai/fastai 1008 and 253."""
    tree: dict[str, bytes | str] = {f"img/{i:04}.png": IMAGE for i in range(3)}
    found = read(plant(tmp_path, {**tree, "list.csv": rows("id,label", "0000,01", "0001,1", "0002,01")}) / "list.csv")
    assert found.names == {"01": ["0000", "0002"], "1": ["0001"]}


def test_classes_that_pandas_takes_for_missing_values(tmp_path):
    """googledatalab/pydatalab 398, chanzuckerberg/cellxgene 1115."""
    names = ("NA", "None", "nan", "null")
    text = rows("path,label", *(f"img/0{i}.png,{n}" for i, n in enumerate(names)))
    assert read(plant(tmp_path, {"img/": 4, "list.csv": text}) / "list.csv").train == dict.fromkeys(names, 1)
    lacking = plant(tmp_path / "b", {"img/": 2, "list.csv": rows("path,label", "img/00.png,a", "img/01.png,")})
    assert "line 3 has no label" in refusal(lacking / "list.csv")


def test_images_that_a_list_names_and_are_missing(tmp_path):
    """Keras leaves them out (flow_from_dataframe, "Found N validated image filenames"); here they are an error."""
    text = rows("path,label", "img/00.png,a", "img/01.png,b", "img/09.png,b")
    told = refusal(plant(tmp_path, {"img/": 2, "list.csv": text}) / "list.csv")
    assert "1 of 3 images" in told
    assert "line 4: img/09.png" in told


# Pixels


def decoded(image, kind: str = "PNG", **options):
    """What the training sees of an image."""
    from raysweep.data.decode import decode
    from raysweep.data.listing import Item

    out = io.BytesIO()
    image.save(out, kind, **options)
    return decode(Item("x", 0, out.getvalue()), image.width, 1)


def test_sixteen_bits_are_not_clipped_to_white():
    """python-pillow/Pillow 3011 and 5991."""
    import numpy as np
    from PIL import Image

    ramp = (np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)
    assert (decoded(Image.fromarray(ramp)).pixels[:, :, 0] == ramp >> 8).all()


def test_photos_are_turned_upright():
    """ultralytics/yolov5 405, huggingface/diffusers 3465, open-edge-platform/datumaro 1756."""
    import numpy as np
    from PIL import Image

    pixels = np.zeros((8, 8), np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    assert (decoded(Image.fromarray(pixels), exif=exif).pixels[:, :, 0] == pixels[::-1]).all()


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_an_animation_the_first_picture_is_used_and_that_is_said(kind):
    """infinitered/nsfwjs 38: only one frame is looked at."""
    from PIL import Image

    from raysweep.data.reading import Reading

    black, white = Image.new("L", (8, 8), 0), Image.new("L", (8, 8), 255)
    options = {"lossless": True} if kind == "WEBP" else {}
    moving, still = (
        decoded(black, kind, save_all=True, append_images=[white], **options),
        decoded(black, kind, **options),
    )
    assert (moving.several, still.several) == (True, False)
    assert (moving.pixels == still.pixels).all()
    lines = Reading(several=2).lines()
    assert lines == ["Only the first picture is used: 2 images with several, as in animations."]
    assert Reading.from_json(Reading(several=2).to_json()).several == 2


@pytest.mark.parametrize("content", [b"", b"<html>404 Not Found</html>", IMAGE[: len(IMAGE) // 2]])
def test_files_that_are_no_images_in_truth(tmp_path, content):
    """alexeygrigorev/clothing-dataset 1 (0 bytes), pytorch/vision 138 (cut short), hardikvasa/google-images-download 81 (no image)."""
    from raysweep.data.decode import decode_file

    assert isinstance(decode_file(plant(tmp_path, {"x.png": content}) / "x.png", 8, 1), str)
