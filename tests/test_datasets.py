"What does not read well in nbs/11_datasets.ipynb: awkward folders, duplicates, real photographs"
import os, pickle, subprocess, sys, warnings
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from qebias.core import QebiasError, write_png
from qebias.datasets import RawImage, SAMPLE, SOURCES, describe_dataset, load_dataset, split_by_content

def picture(seed, h=12, w=10): return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)
def names(images): return [i.name for i in images]
def content(images): return {i.digest for i in images}

@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate(("b.png", "a.png", "sub/c.png")): write_png(tmp_path/name, picture(k))
    return tmp_path

def test_no_torch_at_import():
    code = "import sys, qebias.datasets; sys.exit(bool({'torch', 'skimage', 'pandas', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

def test_sample_is_in_the_wheel_and_never_downloaded(monkeypatch):
    import socket
    def refuse(*a, **k): raise AssertionError("the sample went to the network")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    images = load_dataset("sample")
    assert names(images) == [*SAMPLE["train"], *SAMPLE["eval"]]
    assert all(i().dtype == np.uint8 and i().shape == i.shape + (3,) for i in images)
    assert len(content(images)) == 5

def test_sample_missing_from_the_wheel(monkeypatch, tmp_path):
    import skimage
    monkeypatch.setattr(skimage, "__file__", str(tmp_path/"__init__.py"))
    with pytest.raises(QebiasError, match="has no astronaut.png in its wheel: pip install"): load_dataset("sample")

def test_folder_is_sorted_whatever_the_disk_says(folder, monkeypatch):
    expected = names(load_dataset(f"folder:{folder}"))
    assert expected == ["a", "b", "sub__c"]
    walk = os.walk
    def backwards(*a, **k):
        for here, below, files in walk(*a, **k):
            below.reverse()
            yield here, below, files[::-1]
    monkeypatch.setattr(os, "walk", backwards)
    assert names(load_dataset(f"folder:{folder}")) == expected

def test_home_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert names(load_dataset("folder:~/sub")) == ["c"]
    assert names(load_dataset("folder:~")) == ["a", "b", "sub__c"]

def test_links_are_followed_once(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_png(elsewhere/"far.png", picture(9))
    (folder/"link").symlink_to(elsewhere)
    (folder/"sub/loop").symlink_to(folder)
    (folder/"gone.png").symlink_to(elsewhere/"nothing.png")
    with pytest.warns(UserWarning, match="1 of 5 pictures .*gone.png does not exist"):
        found = load_dataset(f"folder:{folder}", on_error="skip")
    assert names(found) == ["a", "b", "link__far", "sub__c"]

def test_hidden_and_foreign_files_are_left_out(folder):
    (folder/".cache").mkdir()
    write_png(folder/".cache/thumb.png", picture(5))
    (folder/"a.txt").write_text("x"); (folder/"film.mp4").write_bytes(b"x")
    assert names(load_dataset(f"folder:{folder}")) == ["a", "b", "sub__c"]

@pytest.mark.parametrize("name", ["ein Bild", "фото", "a'b", "50%", "x.y.z"])
def test_any_name(tmp_path, name):
    write_png(tmp_path/f"{name}.png", picture(0))
    image, = load_dataset(f"folder:{tmp_path}")
    assert image.name == name and np.array_equal(image(), picture(0))

def test_deep_paths_get_names_that_a_disk_takes(tmp_path):
    deep = tmp_path/"/".join(["n"*50]*6)
    deep.mkdir(parents=True)
    for k in range(2): write_png(deep/f"{k}.png", picture(k))
    found = names(load_dataset(f"folder:{tmp_path}"))
    assert len(set(found)) == 2 and max(map(len, found)) < 200

def test_colliding_names_are_told_apart(tmp_path):
    for k, name in enumerate(("p.png", "p.bmp", "q/r.png", "q__r.png", "P.png")): write_png(tmp_path/name, picture(k))
    found = names(load_dataset(f"folder:{tmp_path}"))
    assert len({n.casefold() for n in found}) == 5
    assert found == names(load_dataset(f"folder:{tmp_path}"))

@pytest.mark.parametrize("make, why", [
    (lambda p: p.write_bytes(b""), "no picture that can be read"),
    (lambda p: p.write_bytes(b"GIF89a" + bytes(50)), "bad.png"),
    (lambda p: Image.fromarray(np.zeros((4, 4), np.uint16)).save(p), "more than 8 bit"),
    (lambda p: Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(p), "transparent in places"),
    (lambda p: p.write_bytes((p.parent/"a.png").read_bytes()[:-40]), "bad.png")])
def test_what_cannot_be_read_is_named(folder, make, why):
    make(folder/"bad.png")
    with pytest.raises(QebiasError, match=why) as error: load_dataset(f"folder:{folder}")
    assert "\n" not in str(error.value) and "1 of 4 pictures" in str(error.value) and "on_error='skip'" in str(error.value)
    with pytest.warns(UserWarning) as caught: found = load_dataset(f"folder:{folder}", on_error="skip")
    assert names(found) == ["a", "b", "sub__c"] and len(caught) == 1 and "bad.png" in str(caught[0].message)
    (folder/"bad.png").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(f"folder:{folder}", on_error="skip")

def test_nothing_readable_is_an_error_even_when_skipping(tmp_path):
    for k in range(30): (tmp_path/f"{k}.png").write_bytes(b"no")
    with pytest.raises(QebiasError, match="30 of 30 pictures .*; and 10 more. Nothing is left"): load_dataset(f"folder:{tmp_path}", on_error="skip")

def test_grey_is_rgb(tmp_path):
    Image.fromarray(picture(0)[..., 0]).save(tmp_path/"g.png")
    image, = load_dataset(f"folder:{tmp_path}")
    assert image().shape == (12, 10, 3)

@pytest.mark.parametrize("spec, why", [
    ("", "unknown data set ''"), ("Sample", "unknown data set 'Sample': use sample or folder:PATH"), ("flickr2k:x", "unknown data set"),
    ("sample:x", "sample takes nothing after it"), ("folder:", "needs a path"), ("folder:   ", "does not exist"),
    ("folder:~nobody-of-that-name/x", "does not exist"), ("folder:" + "x"*5000, "does not exist"), ("x"*5000, "unknown data set")])
def test_bad_specs_are_one_line(spec, why):
    with pytest.raises(QebiasError, match=why) as error: load_dataset(spec)
    assert "\n" not in str(error.value)

def test_bad_options():
    with pytest.raises(QebiasError, match="unknown on_error 'ignore'"): load_dataset("sample", on_error="ignore")
    with pytest.raises(QebiasError, match="unknown split 'valid'"): load_dataset("sample", "valid")

def test_registry_lists_what_exists():
    assert {s.usage.split(":")[0] for s in SOURCES.values()} == set(SOURCES)

def test_a_copy_in_another_format_stays_on_the_same_side(tmp_path):
    for k in range(10):
        write_png(tmp_path/f"p{k}.png", picture(k))
        Image.fromarray(picture(k)).save(tmp_path/f"copy of {9 - k}.webp", lossless=True, exact=True)
    train, held_out = split_by_content(load_dataset(f"folder:{tmp_path}"), .3)
    assert (len(train), len(held_out)) == (14, 6) and not content(train) & content(held_out)

@pytest.mark.parametrize("seed", range(5))
def test_split_knows_neither_names_nor_order(seed):
    rng = np.random.default_rng(seed)
    images = [RawImage(f"n{k}", lambda k=k: picture(k)) for k in range(15)]
    shuffled = [RawImage(f"m{j}", images[k].load) for j, k in enumerate(rng.permutation(15))]
    for fraction in (.1, .5, .9):
        assert [content(s) for s in split_by_content(images, fraction, seed)] == [content(s) for s in split_by_content(shuffled, fraction, seed)]

@pytest.mark.parametrize("fraction", [.01, .2, .5, .99])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_both_sides_have_something_and_nothing_is_lost(count, fraction):
    images = [RawImage(f"n{k}", lambda k=k: picture(k)) for k in range(count)]
    train, held_out = split_by_content(images, fraction)
    assert train and held_out and sorted(names(train + held_out)) == sorted(names(images))

def test_split_names_what_cannot_be_read(tmp_path):
    write_png(tmp_path/"a.png", picture(0)); write_png(tmp_path/"b.png", picture(1))
    images = load_dataset(f"folder:{tmp_path}")
    fresh = [RawImage(i.name, i.load) for i in images]
    (tmp_path/"b.png").unlink()
    with pytest.raises(QebiasError, match="1 of 2 pictures cannot be read: .*b.png does not exist"): split_by_content(fresh)

def test_description_says_no_path(folder):
    told = describe_dataset(load_dataset(f"folder:{folder}"), f"folder:{folder}/sub/..")
    assert told["spec"] == f"folder:{folder.name}" and str(folder.parent) not in str(told)
    assert told | dict(spec="", digest="") == dict(spec="", images=3, distinct=3, megapixels=3*120/1e6, smallest=10, files={".png": 3}, digest="")

def test_pictures_travel_to_other_processes(folder):
    images = load_dataset(f"folder:{folder}")
    assert [np.array_equal(pickle.loads(pickle.dumps(i))(), i()) for i in images] == [True]*3

@pytest.fixture
def real():
    if not (found := os.environ.get("QEBIAS_DATA")) or not (Path(found)/"kodak24").is_dir(): pytest.skip("set QEBIAS_DATA to a folder that holds kodak24/")
    return Path(found)/"kodak24"

def test_kodak(real):
    images = load_dataset(f"folder:{real}")
    assert len(images) == 24 and {i.shape for i in images} == {(512, 768), (768, 512)}
    train, held_out = split_by_content(images)
    assert (len(train), len(held_out)) == (19, 5)
    assert describe_dataset(images, f"folder:{real}")["megapixels"] == pytest.approx(24*512*768/1e6)
