"""Kaggle's competitions in miniature: each has its host's names, columns, suffixes and quirks, and few small images.

A function of FOLDERS writes one and returns the host's solution, a table of the test rows' ids and true labels.
Positive images are brighter, so that something can be learned.
"""

import io
import zlib
from pathlib import Path
from shutil import copyfile

import numpy as np
import pandas as pd
from PIL import Image

from tests.data.test_dicom import dicom

RANZCR = ["ETT - Abnormal", "ETT - Borderline", "ETT - Normal", "NGT - Abnormal", "NGT - Borderline",
          "NGT - Incompletely Imaged", "NGT - Normal", "CVC - Abnormal", "CVC - Borderline", "CVC - Normal",
          "Swan Ganz Catheter Present"]  # fmt: skip
PLANT_2020 = ["healthy", "multiple_diseases", "rust", "scab"]
PLANT_2021 = ["healthy", "scab", "frog_eye_leaf_spot", "rust", "complex", "powdery_mildew"]
PLANT_2021_CELLS = ["healthy", "scab", "frog_eye_leaf_spot", "rust", "complex", "powdery_mildew",
                    "scab frog_eye_leaf_spot", "scab frog_eye_leaf_spot complex", "frog_eye_leaf_spot complex",
                    "rust frog_eye_leaf_spot", "rust complex", "powdery_mildew complex"]  # fmt: skip
PLANET = ["haze", "primary", "agriculture", "clear", "water", "habitation", "road", "cultivation", "slash_burn",
          "cloudy", "partly_cloudy", "conventional_mine", "bare_ground", "artisinal_mine", "blooming",
          "selective_logging", "blow_down"]  # fmt: skip
ISIC_NUMBERS = [
    *("clin_size_long_diam_mm", "tbp_lv_A", "tbp_lv_Aext", "tbp_lv_B", "tbp_lv_Bext", "tbp_lv_C", "tbp_lv_Cext"),
    *("tbp_lv_H", "tbp_lv_Hext", "tbp_lv_L", "tbp_lv_Lext", "tbp_lv_areaMM2", "tbp_lv_area_perim_ratio"),
    *("tbp_lv_color_std_mean", "tbp_lv_deltaA", "tbp_lv_deltaB", "tbp_lv_deltaL", "tbp_lv_deltaLB"),
    *("tbp_lv_deltaLBnorm", "tbp_lv_eccentricity", "tbp_lv_minorAxisMM", "tbp_lv_nevi_confidence"),
    *("tbp_lv_norm_border", "tbp_lv_norm_color", "tbp_lv_perimeterMM", "tbp_lv_radial_color_std_max", "tbp_lv_stdL"),
    *("tbp_lv_stdLExt", "tbp_lv_symm_2axis", "tbp_lv_symm_2axis_angle", "tbp_lv_x", "tbp_lv_y", "tbp_lv_z"),
]


def draw(value, size=(32, 32), channels=3, seed=0):
    """Return noise (H, W, C) uint8 about a brightness; channels=1: (H, W)."""
    rng = np.random.default_rng(seed)
    shape = (*size, channels) if channels > 1 else size
    return np.clip(rng.normal(60 + 110 * value, 25, shape), 0, 255).astype(np.uint8)


def save(path, pixels):
    """Write an image in the format of its suffix: .npy and .dcm too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".dcm":
        path.write_bytes(dicom(pixels.astype(np.uint16), 12))
    else:
        Image.fromarray(pixels).save(path)


def save_all(folder, form, names, values, size=(32, 32), channels=3):
    """Write an image of each name, as bright as its value in [0, 1]."""
    for name, value in zip(names, values, strict=True):
        save(folder / form.format(name), draw(value, size, channels, seed=zlib.crc32(form.format(name).encode())))


def table(path, **columns):
    rows = pd.DataFrame(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(path, index=False)
    return rows


def hexes(count, digits, seed):
    """Return distinct hexadecimal ids, some of which begin with a zero or read as a number (12e45)."""
    rng = np.random.default_rng(seed)
    found = ["".join(rng.choice(list("0123456789abcdef"), digits)) for _ in range(count)]
    found[0], found[1] = "0" + found[0][1:], found[1][:2].replace(found[1][:2], "12e") + "4" * (digits - 3)
    assert len(set(found)) == count
    return found


def zero_one(count, seed, share=0.5):
    """Return 0 and 1 in a random order, with a rounded share of ones."""
    return np.random.default_rng(seed).permutation(np.arange(count) < round(share * count)).astype(int)


def write_cactus(folder):
    train, test = ([f"{one}.jpg" for one in hexes(count, 32, seed)] for count, seed in ((60, 0), (40, 1)))
    labels, truth = zero_one(60, 2, 0.75), zero_one(40, 3, 0.75)
    save_all(folder, "train/{}", train, labels)
    save_all(folder, "test/{}", test, truth)
    table(folder / "train.csv", id=train, has_cactus=labels)
    table(folder / "sample_submission.csv", id=test, has_cactus=0.5)
    return pd.DataFrame({"id": test, "has_cactus": truth})


def write_histopathologic(folder):
    train, test = hexes(60, 40, 0), hexes(40, 40, 1)
    labels, truth = zero_one(60, 2, 0.4), zero_one(40, 3, 0.4)
    save_all(folder, "train/{}.tif", train, labels, (96, 96))
    save_all(folder, "test/{}.tif", test, truth, (96, 96))
    table(folder / "train_labels.csv", id=train, label=labels)
    table(folder / "sample_submission.csv", id=test, label=0)
    return pd.DataFrame({"id": test, "label": truth})


def write_siim(folder):
    """DICOM and JPEG of the same images, three columns that the test table lacks, missing cells, several a patient."""

    def describe(count, seed):
        rng = np.random.default_rng(seed)
        sites = ["head/neck", "lower extremity", "oral/genital", "palms/soles", "torso", "upper extremity", ""]
        return {
            "patient_id": [f"IP_{seed}{row // 3:06}" for row in range(count)],
            "sex": rng.choice(["male", "female", ""], count, p=[0.5, 0.45, 0.05]),
            "age_approx": [f"{age}.0" if age else "" for age in rng.choice([0, 25, 45, 60], count)],
            "anatom_site_general_challenge": rng.choice(sites, count),
        }

    train, test = [f"ISIC_{row:07}" for row in range(120)], [f"ISIC_{row:07}" for row in range(1000, 1040)]
    labels, truth = zero_one(120, 2, 0.2), zero_one(40, 3, 0.2)
    for place, names, values in (("train", train, labels), ("test", test, truth)):
        save_all(folder, f"{place}/{{}}.dcm", names, values, channels=1)
        save_all(folder, f"jpeg/{place}/{{}}.jpg", names, values, (40, 60))
    copyfile(folder / f"jpeg/train/{train[2]}.jpg", folder / f"jpeg/train/{train[50]}.jpg")  # of another patient
    (folder / "tfrecords").mkdir()
    (folder / "tfrecords/train00-2071.tfrec").write_bytes(b"\0" * 16)
    diagnoses = np.where(labels, "melanoma", np.where(np.arange(120) % 7, "unknown", "nevus"))
    words = np.where(labels, "malignant", "benign")
    table(folder / "train.csv", image_name=train, **describe(120, 1), diagnosis=diagnoses, benign_malignant=words,
          target=labels)  # fmt: skip
    table(folder / "test.csv", image_name=test, **describe(40, 2))
    table(folder / "sample_submission.csv", image_name=test, target=0)
    return pd.DataFrame({"image_name": test, "target": truth})


def write_isic_2024(folder):
    """JPEG bytes in HDF5, one dataset an id; of the training rows JPEG files, too; many columns, few positives."""
    import h5py  # here, since only this competition needs it

    def describe(names, seed):
        rng, count = np.random.default_rng(seed), len(names)
        found = {
            "patient_id": [f"IP_{seed}{row // 6:06}" for row in range(count)],
            "age_approx": [f"{age}.0" if age else "" for age in rng.choice([0, 40, 55, 70], count)],
            "sex": rng.choice(["male", "female", ""], count, p=[0.6, 0.35, 0.05]),
            "anatom_site_general": rng.choice(["posterior torso", "head/neck", "lower extremity", ""], count),
            "image_type": ["TBP tile: close-up"] * count,
            "tbp_tile_type": rng.choice(["3D: white", "3D: XP"], count),
            "tbp_lv_location": rng.choice(["Torso Back Top Third", "Left Leg - Upper"], count),
            "tbp_lv_location_simple": rng.choice(["Torso Back", "Left Leg"], count),
            "attribution": ["Memorial Sloan Kettering Cancer Center"] * count,
            "copyright_license": ["CC-BY"] * count,
        }
        return found | {name: np.round(rng.normal(10, 3, count), 4) for name in ISIC_NUMBERS}

    train, test = [f"ISIC_{row:07}" for row in range(15670, 15790)], [f"ISIC_{row:07}" for row in range(15900, 15940)]
    labels, truth = np.zeros(120, int), zero_one(40, 3, 0.15)
    labels[5::20] = 1
    for place, names, values in (("train", train, labels), ("test", test, truth)):
        folder.mkdir(parents=True, exist_ok=True)
        with h5py.File(folder / f"{place}-image.hdf5", "w") as file:
            for name, value in zip(names, values, strict=True):
                buffer = io.BytesIO()
                Image.fromarray(draw(value, (41, 41), seed=zlib.crc32(name.encode()))).save(buffer, "JPEG")
                file[name] = np.void(buffer.getvalue())
                if place == "train":
                    path = folder / f"train-image/image/{name}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(buffer.getvalue())
    words = np.where(labels, "Malignant", "Benign")
    after = {
        "lesion_id": ["" if row % 5 else f"IL_{row:07}" for row in range(120)],
        "iddx_full": np.where(labels, "Malignant::Melanoma", "Benign"),
        "iddx_1": words,
        **{f"iddx_{place}": np.where(labels, "Malignant adnexal", "") for place in (2, 3, 4, 5)},
        "mel_mitotic_index": np.where(labels, "0/mm^2", ""),
        "mel_thick_mm": np.where(labels, "0.4", ""),
        "tbp_lv_dnn_lesion_confidence": np.round(np.random.default_rng(4).uniform(90, 100, 120), 4),
    }
    table(folder / "train-metadata.csv", isic_id=train, target=labels, **describe(train, 1), **after)
    table(folder / "test-metadata.csv", isic_id=test, **describe(test, 2))
    table(folder / "sample_submission.csv", isic_id=test, target=0.3)
    return pd.DataFrame({"isic_id": test, "target": truth})


def write_ranzcr(folder):
    """Eleven columns, of which a row has none to several; annotations of the same images in a table beside."""
    train = [f"1.2.826.0.1.3680043.8.498.{row:020}" for row in range(66)]
    test = [f"1.2.826.0.1.3680043.8.498.{row:020}" for row in range(900, 940)]
    labels = np.array([[(row + 2 * place) % 11 < 3 for place in range(11)] for row in range(66)]).astype(int)
    labels[::13] = 0
    truth = np.random.default_rng(0).random((40, 11)) < 0.4
    save_all(folder, "train/{}.jpg", train, labels.mean(axis=1), (48, 40), 1)
    save_all(folder, "test/{}.jpg", test, truth.mean(axis=1), (48, 40), 1)
    for place in ("train", "test"):
        (folder / f"{place}_tfrecords").mkdir()
        (folder / f"{place}_tfrecords/00-1881.tfrec").write_bytes(b"\0" * 16)
    table(folder / "train.csv", StudyInstanceUID=train, **dict(zip(RANZCR, labels.T, strict=True)),
          PatientID=[f"{row // 2:09x}" for row in range(66)])  # fmt: skip
    lines = ["[[1487, 1279], [1477, 1168]]"] * 132
    table(folder / "train_annotations.csv", StudyInstanceUID=train * 2, label=["CVC - Normal"] * 132, data=lines)
    table(folder / "sample_submission.csv", StudyInstanceUID=test, **dict.fromkeys(RANZCR, 0))
    return pd.DataFrame({"StudyInstanceUID": test, **dict(zip(RANZCR, truth.T.astype(int), strict=True))})


def write_plant_2020(folder):
    """One folder for both kinds of images, whose ids lack the suffix."""
    train, test = [f"Train_{row}" for row in range(60)], [f"Test_{row}" for row in range(40)]
    labels, truth = np.arange(60) % 4, np.random.default_rng(0).permutation(40) % 4
    save_all(folder, "images/{}.jpg", train, labels / 3, (40, 60))
    save_all(folder, "images/{}.jpg", test, truth / 3, (40, 60))
    copyfile(folder / "images/Train_4.jpg", folder / "images/Train_13.jpg")  # with another label
    table(folder / "train.csv", image_id=train, **dict(zip(PLANT_2020, np.eye(4, dtype=int)[:, labels], strict=True)))
    table(folder / "test.csv", image_id=test)
    table(folder / "sample_submission.csv", image_id=test, **dict.fromkeys(PLANT_2020, 0.25))
    return pd.DataFrame({"image_id": test, **dict(zip(PLANT_2020, np.eye(4, dtype=int)[:, truth], strict=True))})


def write_plant_2021(folder):
    """Several labels in a cell, twelve ways in all; the ids have the suffix."""
    train, test = ([f"{one}.jpg" for one in hexes(count, 16, seed)] for count, seed in ((72, 0), (40, 1)))
    cells, truth = [[PLANT_2021_CELLS[(row * 5) % 12] for row in range(count)] for count in (72, 40)]
    save_all(folder, "train_images/{}", train, [PLANT_2021_CELLS.index(one) / 11 for one in cells], (40, 60))
    save_all(folder, "test_images/{}", test, [PLANT_2021_CELLS.index(one) / 11 for one in truth], (40, 60))
    table(folder / "train.csv", image=train, labels=cells)
    table(folder / "sample_submission.csv", image=test, labels="healthy")
    return pd.DataFrame({"image": test, "labels": truth})


def write_invasive(folder):
    """Whole numbers as ids, the same ones in training and test; the sample is not in order; archives lie beside."""
    train, test = [*range(1, 61)], [*range(1, 41)]
    labels, truth = zero_one(60, 0, 0.6), zero_one(40, 1, 0.6)
    save_all(folder, "train/{}.jpg", train, labels, (43, 58))
    save_all(folder, "test/{}.jpg", test, truth, (43, 58))
    for name in ("train.7z", "test.7z"):
        (folder / name).write_bytes(b"7z\xbc\xaf\x27\x1c")
    table(folder / "train_labels.csv", name=train, invasive=labels)
    solution = pd.DataFrame({"name": test, "invasive": truth}).sample(frac=1, random_state=0)
    table(folder / "sample_submission.csv", name=solution["name"], invasive=0.5)
    return solution


def write_seti(folder):
    """Arrays (6, 273, 256) of float16 in folders of the id's first letter, and the older data that leaked beside."""

    def signals(place, names, values, size=(6, 273, 256)):
        rng = np.random.default_rng(len(place))
        for name, value in zip(names, values, strict=True):
            array = rng.normal(0, 1, size).astype(np.float16)
            array[::2, :, size[2] // 3] += 6 * value  # a line in the three panels that look at the target
            save(folder / f"{place}/{name[0]}/{name}.npy", array)

    train, test, old = hexes(40, 12, 0), hexes(24, 12, 1), hexes(12, 12, 2)
    labels, truth = zero_one(40, 3), zero_one(24, 4)
    signals("train", train, labels)
    signals("test", test, truth)
    signals("old_leaky_data/train_old", old, zero_one(12, 5), (6, 27, 25))
    signals("old_leaky_data/test_old", old[::-1], zero_one(12, 6), (6, 27, 25))
    table(folder / "old_leaky_data/train_labels_old.csv", id=old, target=zero_one(12, 5))
    table(folder / "old_leaky_data/test_labels_old.csv", id=old[::-1], target=zero_one(12, 6))
    table(folder / "train_labels.csv", id=train, target=labels)
    table(folder / "sample_submission.csv", id=test, target=0.5)
    return pd.DataFrame({"id": test, "target": truth})


def write_rsna_miccai(folder):
    """Four series of DICOM slices a case, of different lengths; ids of five digits; three cases that are blank."""
    train = [f"{row:05}" for row in [*range(0, 50), 109, 123, 709]]
    test = [f"{row:05}" for row in range(800, 824)]
    labels, truth = zero_one(53, 0), zero_one(24, 1)
    for place, names, values in (("train", train, labels), ("test", test, truth)):
        for row, (name, value) in enumerate(zip(names, values, strict=True)):
            for kind in ("FLAIR", "T1w", "T1wCE", "T2w"):
                is_blank = name in ("00109", "00123", "00709") and kind == "FLAIR"
                for number in range(1, 4 + row % 3 + (kind == "T2w")):
                    pixels = draw(value, (16, 16), 1, seed=1000 * int(name) + 10 * number + len(kind))
                    save(folder / f"{place}/{name}/{kind}/Image-{number}.dcm", pixels * (not is_blank))
    table(folder / "train_labels.csv", BraTS21ID=train, MGMT_value=labels)
    table(folder / "sample_submission.csv", BraTS21ID=test, MGMT_value=0.5)
    return pd.DataFrame({"BraTS21ID": test, "MGMT_value": truth})


def write_rsna_breast(folder):
    """DICOM files in a folder a patient, four a patient and more; one prediction a breast, named by the test table."""

    def rows(first, count, seed):
        rng, found = np.random.default_rng(seed), []
        for patient in range(first, first + count):
            views = [("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO")] + [("R", "MLO")] * (patient % 4 == 0)
            cancer = {"L": int(patient % 6 == 0), "R": int(patient % 9 == 1)}
            for side, view in views:
                one = {"site_id": 1 + patient % 2, "patient_id": patient, "image_id": int(rng.integers(10**9))}
                one |= {"laterality": side, "view": view, "age": "" if patient % 17 == 3 else 40.0 + patient % 40}
                found.append(one | {"cancer": cancer[side], "implant": 0, "machine_id": int(rng.choice([21, 29, 49]))})
        return pd.DataFrame(found)

    train, test = rows(10006, 60, 0), rows(60000, 12, 1)
    for place, one in (("train", train), ("test", test)):
        names = [f"{patient}/{image}" for patient, image in zip(one["patient_id"], one["image_id"], strict=True)]
        save_all(folder, f"{place}_images/{{}}.dcm", names, one["cancer"], (40, 32), channels=1)
    more = {"biopsy": train["cancer"], "invasive": train["cancer"], "BIRADS": np.where(train["age"] == "", "", "0.0")}
    train = train.assign(**more, density=np.where(train["site_id"] == 1, "C", ""), difficult_negative_case=False)
    names = ["site_id", "patient_id", "image_id", "laterality", "view", "age", "cancer", "biopsy", "invasive", "BIRADS"]
    table(folder / "train.csv", **train[[*names, "implant", "density", "machine_id", "difficult_negative_case"]])
    test = test.assign(prediction_id=test["patient_id"].astype(str) + "_" + test["laterality"])
    names = ["site_id", "patient_id", "image_id", "laterality", "view", "age", "implant", "machine_id", "prediction_id"]
    table(folder / "test.csv", **test[names])
    solution = test.groupby("prediction_id", sort=False)["cancer"].max().reset_index()
    table(folder / "sample_submission.csv", prediction_id=solution["prediction_id"], cancer=0.021168)
    return solution


def write_aptos(folder):
    """Grades 0 to 4, to be predicted as whole numbers."""
    train, test = hexes(75, 12, 0), hexes(40, 12, 1)
    labels, truth = np.arange(75) % 5, np.random.default_rng(0).permutation(40) % 5
    save_all(folder, "train_images/{}.png", train, labels / 4, (40, 52))
    save_all(folder, "test_images/{}.png", test, truth / 4, (40, 52))
    copyfile(folder / f"train_images/{train[3]}.png", folder / f"train_images/{train[6]}.png")  # of another grade
    table(folder / "train.csv", id_code=train, diagnosis=labels)
    table(folder / "test.csv", id_code=test)
    table(folder / "sample_submission.csv", id_code=test, diagnosis=0)
    return pd.DataFrame({"id_code": test, "diagnosis": truth})


def write_planet(folder):
    """Tags in a cell, JPEG and four-band TIFF of the same images, test images in two folders under two names."""
    cells, rng = [], np.random.default_rng(0)
    for row in range(100):
        weather = ["clear", "partly_cloudy", "haze", "cloudy"][row % 4]
        ground = [] if weather == "cloudy" else ["primary", *rng.choice(PLANET[4:9] + PLANET[11:], 2, replace=False)]
        cells.append(" ".join(dict.fromkeys([weather, *ground, *(["agriculture"] if row % 3 == 0 and ground else [])])))
    names = [f"train_{row}" for row in range(60)]
    test = [f"test_{row}" for row in range(25)] + [f"file_{row}" for row in range(15)]
    light = [["clear", "partly_cloudy", "haze", "cloudy"].index(one.split()[0]) / 3 for one in cells]
    save_all(folder, "train-jpg/{}.jpg", names, light[:60])
    save_all(folder, "test-jpg/{}.jpg", test[:25], light[60:85])
    save_all(folder, "test-jpg-additional/{}.jpg", test[25:], light[85:])
    save_all(folder, "train-tif-v2/{}.tif", names, light[:60], channels=4)
    save_all(folder, "test-tif-v2/{}.tif", test, light[60:], channels=4)
    table(folder / "train_v2.csv", image_name=names, tags=cells[:60])
    old = [f"file_{row}.tif" for row in range(15)]
    table(folder / "test_v2_file_mapping.csv", old=old, new=old[::-1])
    table(folder / "sample_submission_v2.csv", image_name=test, tags="primary clear agriculture road water")
    return pd.DataFrame({"image_name": test, "tags": cells[60:]})


def write_pneumonia(folder):
    """A folder per class in train, val and test, the whole of it there a second time; patients in the files' names."""
    found = {}
    for place, count in (("train", 30), ("val", 4), ("test", 20)):
        first = {"train": 0, "val": 900, "test": 500}[place]
        normal = [f"IM-{first + row // 2:04}-{row % 2 + 1:04}.jpeg" for row in range(count // 2)]
        normal += [f"NORMAL2-IM-{first + 400 + row // 2:04}-{row % 2 + 1:04}.jpeg" for row in range(count // 2)]
        kinds = ("bacteria", "virus")
        ill = [f"person{first + row // 3 + 1}_{kinds[row // 3 % 2]}_{row + 1}.jpeg" for row in range(count)]
        for label, names in (("NORMAL", normal), ("PNEUMONIA", ill)):
            value = [int(label == "PNEUMONIA")] * len(names)
            save_all(folder, f"chest_xray/{place}/{label}/{{}}", names, value, (40, 56), channels=1)
            found |= {f"{label}/{name}": value[0] for name in names} if place == "test" else {}
    for path in sorted((folder / "chest_xray").rglob("*.jpeg")):
        below = path.relative_to(folder / "chest_xray")
        for other in (folder / "chest_xray/chest_xray" / below, folder / "chest_xray/__MACOSX" / f"._{below.name}"):
            other.parent.mkdir(parents=True, exist_ok=True)
            other.write_bytes(path.read_bytes() if other.name == path.name else b"\0\5\26\7")
    return pd.DataFrame({"id": [*found], "PNEUMONIA": [*found.values()]})


FOLDERS = {
    "aerial-cactus-identification": write_cactus,
    "histopathologic-cancer-detection": write_histopathologic,
    "siim-isic-melanoma-classification": write_siim,
    "isic-2024-challenge": write_isic_2024,
    "ranzcr-clip-catheter-line-classification": write_ranzcr,
    "plant-pathology-2020-fgvc7": write_plant_2020,
    "plant-pathology-2021-fgvc8": write_plant_2021,
    "invasive-species-monitoring": write_invasive,
    "seti-breakthrough-listen": write_seti,
    "rsna-miccai-brain-tumor-radiogenomic-classification": write_rsna_miccai,
    "rsna-breast-cancer-detection": write_rsna_breast,
    "aptos2019-blindness-detection": write_aptos,
    "planet-understanding-the-amazon-from-space": write_planet,
    "chest-xray-pneumonia": write_pneumonia,
}


def write_competition(name, root):
    """Write data/<name> below a folder; return the host's solution."""
    folder = Path(root) / "data" / name
    folder.mkdir(parents=True)
    return FOLDERS[name](folder)
