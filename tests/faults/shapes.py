"""Whole files of strangers: well formed, and not what a reader expects

A mutation of bytes seldom leaves a table, an archive or a profile that can be opened, so what is wrong inside
is hardly ever read. Here the libraries themselves write the files: columns of every type, arrays of objects,
profiles with another value at one place. `made(kind, seeds, number)` is a pure function of its arguments.
"""

import copy
import io
import json
import random
import struct
import warnings
import zlib

import numpy as np
import yaml

BYTES = b"\xff\xfe\0x"


def deep(value, levels):
    "A value within so many lists"
    for _ in range(levels):
        value = [value]
    return value


VALUES = [
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.0, 10**9, -(10**18), 2**63, 10**30, 10**400),
    *(float("nan"), float("inf"), 5e-324, 1e308, "", " ", "0", "nan", "x" * 3000, "\n", "\0", "ü\u2028"),
    *("../../etc/passwd", "/dev/zero", "os:system", "qebias.core:require", "qebias.generators.arcnn:ARCNN"),
    *("bpg", "jpeg", "sample", "folder:/", "psnr", "2020-99-99", "1e9", "=cmd", "%s%n", "{0.__class__}"),
    *([], {}, [[]], [None], {"": None}, [1, "a", None], {"a": {"a": {"a": []}}}, [0] * 5000, ["x"] * 300),
    *({str(i): i for i in range(500)}, {"__class__": 1}, {1: 2}, {"width": 10**9}, deep(0, 40), deep(0, 80)),
]  # fmt: skip


def places(value, at=()):
    "The paths of all places in a tree of lists and tables"
    yield at
    if isinstance(value, dict):
        for name, part in value.items():
            yield from places(part, (*at, name))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from places(part, (*at, i))


def another_tree(tree, chance):
    "A copy of a tree after one to three changes: another value, none, one too many, two exchanged"
    tree = json.loads(json.dumps(tree, default=str))
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        known = [at for at in places(tree) if at]
        if not known:
            return copy.deepcopy(chance.choice(VALUES))
        at = chance.choice(known)
        parent = tree
        for step in at[:-1]:
            parent = parent[step]
        way = chance.randrange(8)
        if way < 4:
            parent[at[-1]] = copy.deepcopy(chance.choice(VALUES))
        elif way == 4:
            del parent[at[-1]]
        elif way == 5 and isinstance(parent, dict):
            parent[chance.choice(["unknown", "", "__init__", "x" * 300, str(at[-1]) + "s"])] = parent[at[-1]]
        elif way == 6 and isinstance(parent, dict):
            other = chance.choice(list(parent))
            parent[other] = parent.pop(at[-1])
        else:
            parent[at[-1]] = [parent[at[-1]]]
    return tree


# Texts


def json_text(tree):
    "JSON, or what Python takes for it"
    return json.dumps(tree, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")


def another_json(seeds, chance):
    tree = another_tree(json.loads(chance.choice(seeds)), chance)
    data = json_text(tree)
    if chance.random() < 0.2 and data[:1] == b"{" and len(data) > 2:
        data = b"{" + data[1:-1] + b", " + data[1:]  # every name twice
    return data


def another_yaml(seeds, chance):
    "Another profile, with anchors, merges or names that occur twice"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    tree = another_tree(yaml.load(chance.choice(seeds), loader), chance)
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    flow = chance.random() < 0.2
    text = yaml.dump(tree, Dumper=dumper, allow_unicode=True, sort_keys=False, default_flow_style=flow)
    lines = text.splitlines()
    way, at = chance.randrange(6), chance.randrange(len(lines) or 1)
    if way == 0 and lines:
        lines.insert(chance.randrange(len(lines)), lines[at])
    elif way == 1:
        lines += ["more: &more {width: 8}", "again: {<<: *more, width: 9}", "list: [*more, *more]"]
    elif way == 2:
        lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9) if k else 'x'}]" for k in range(9)]
    elif way == 3 and lines:
        lines[at] = lines[at].replace(": ", ": !!python/name:os.system ", 1)
    return "\n".join(lines).encode()


def another_stats(seeds, chance):
    lines = [json.loads(line) for line in chance.choice(seeds).splitlines() if line.strip()]
    return b"\n".join(json_text(another_tree(line, chance)) for line in lines * chance.choice([1, 2, 5]))


def another_csv(seeds, chance):
    names = chance.sample(["picture", "value", "seed", "value", "", "x" * 300, "a\nb", "1", "Unnamed: 0"], 4)
    cells = [
        "a",
        "1",
        "",
        "nan",
        "inf",
        "-0",
        "1e999",
        "9" * 400,
        "x" * 3000,
        "=1+1",
        "true",
        "2020-99-99",
        "\0",
    ]
    quote, comma = chance.choice(['"', "'", ""]), chance.choice([",", ";", "\t", ",,"])
    rows = [names, *([chance.choice(cells) for _ in range(chance.choice([4, 4, 3, 9]))] for _ in range(9))]
    text = "\n".join(comma.join(quote + cell + quote for cell in row) for row in rows)
    return text.encode(chance.choice(["utf-8", "utf-16", "latin-1"]), "replace")


# Tables


def columns(chance):
    "Columns of nine values, of every type that Arrow has, as calls that make them"
    import pyarrow as pa

    words = ["a", "b", None] * 3
    numbers = [1, 2, None] * 3
    lists, tables = [[1], [], None] * 3, [{"x": 1, "y": "a"}, {"x": None, "y": ""}, None] * 3
    nested = pa.int8()
    for _ in range(chance.choice([3, 30])):
        nested = pa.list_(nested)
    far = 2**62
    return [
        lambda: pa.array(words, pa.string()),
        lambda: pa.array(words, pa.large_string()),
        lambda: pa.array([BYTES, None, b""] * 3, pa.binary()),
        lambda: pa.array([b"abcd"] * 9, pa.binary(4)),
        lambda: pa.array(words).dictionary_encode(),
        lambda: pa.array(numbers, pa.int8()),
        lambda: pa.array([2**64 - 1, 0, None] * 3, pa.uint64()),
        lambda: pa.array(np.array([1, np.inf, np.nan] * 3, np.float16)),
        lambda: pa.array([1.0, float("nan"), None] * 3, pa.float32()),
        lambda: pa.array([True, False, None] * 3),
        lambda: pa.nulls(9),
        lambda: pa.array(lists, pa.list_(pa.int64())),
        lambda: pa.array([[1, 2]] * 9, pa.list_(pa.int32(), 2)),
        lambda: pa.array(tables, pa.struct([("x", pa.int64()), ("y", pa.string())])),
        lambda: pa.array([[("k", 1), ("k", 2)], [], None] * 3, pa.map_(pa.string(), pa.int64())),
        lambda: pa.nulls(9, nested),
        lambda: pa.array([10**60, -(10**60), None] * 3, pa.decimal256(76, 3)),
        lambda: pa.array([far, -far, None] * 3, pa.timestamp("us")),
        lambda: pa.array([2**50, 0, None] * 3, pa.timestamp("s", "Nowhere/Land")),
        lambda: pa.array([0, 1, None] * 3, pa.timestamp("ns", "+99:99")),
        lambda: pa.array([2**31 - 1, -(2**31), None] * 3, pa.date32()),
        lambda: pa.array([2**46 - 1, None, 0] * 3, pa.time64("us")),
        lambda: pa.array([far, None, 0] * 3, pa.duration("s")),
        lambda: pa.array(["x" * 10**5] * 9),
        lambda: pa.array(["\ud7ff", "\0", "\u2028"] * 3),
    ]


def another_parquet(seeds, chance):
    "A Parquet file that Arrow wrote, of other columns, metadata or parts"
    import pandas
    import pyarrow as pa
    from pyarrow import parquet

    way = chance.randrange(10)
    if way == 0:
        return damaged_footer(chance.choice(seeds), chance)
    base = pandas.read_parquet(io.BytesIO(chance.choice(seeds))).head(9)
    base = pandas.concat([base] * 9).head(9)
    table = pa.Table.from_pandas(base, preserve_index=False)
    kinds = columns(chance)
    for _ in range(chance.randrange(1, 5)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            column = chance.choice(kinds)()
        i = chance.randrange(table.num_columns)
        name = chance.choice(
            [table.column_names[i]] * 15 + ["", "x" * 3000, "a\nb", "value", "__index_level_0__"]
        )
        table = (
            table.set_column(i, name, column) if chance.random() < 0.9 else table.append_column(name, column)
        )
    if way == 1:
        table = table.slice(0, 0)
    elif way == 2:
        table = table.select([])
    elif way == 3:
        table = pa.concat_tables([table] * 300)
    elif way in (4, 5):
        table = table.replace_schema_metadata({b"pandas": odd_pandas(chance, table.column_names)})
    elif way == 6:
        table = pa.table({f"c{i}": [1] for i in range(chance.choice([2000, 12_000]))})
    elif way == 7:
        same = chance.choice([1.0, "x", "x" * 1000, None, [1, 2]])
        rows = chance.choice([10**5, 10**6])
        table = pa.table({name: pa.repeat(pa.scalar(same), rows) for name in table.column_names[:3]})
    out = io.BytesIO()
    how = {"compression": chance.choice(["none", "gzip", "zstd", "brotli", "lz4", "snappy"])}
    how["version"] = chance.choice(["1.0", "2.4", "2.6"])
    how["use_dictionary"] = chance.random() < 0.5
    how["row_group_size"] = chance.choice([1, 4, 10**6]) if table.num_rows < 5000 else 10**6
    try:
        parquet.write_table(table, out, **how)
    except (pa.ArrowException, NotImplementedError):  # a type that this version of the format does not know
        out = io.BytesIO()
        parquet.write_table(table, out)
    return out.getvalue()


def odd_pandas(chance, names):
    "What pandas would write beside a table, with other contents"
    span = {"kind": "range", "name": None, "start": 0, "stop": chance.choice([9, 0, -1, 10**12]), "step": 1}
    column = {"name": chance.choice(names), "field_name": chance.choice(names), "pandas_type": "categorical"}
    column |= {
        "numpy_type": chance.choice(["object", "evil", "V99", "O", "<M8[as]"]),
        "metadata": {"num_categories": -1},
    }
    tree = {"index_columns": [span], "column_indexes": [column], "columns": [column], "pandas_version": "9"}
    tree["attributes"] = {"a": [1]}
    if chance.random() < 0.3:
        tree["index_columns"] = chance.sample(names, 1) * 2
    if chance.random() < 0.5:
        tree = another_tree(tree, chance)
    return chance.choice([json_text(tree)] * 5 + [b"{", b"[]", BYTES, b"null", b"[" * 5000])


def damaged_footer(data, chance):
    "A Parquet file with another length of its footer, or a footer changed at one place"
    data = bytearray(data)
    length = int.from_bytes(data[-8:-4], "little")
    if chance.random() < 0.4:
        data[-8:-4] = struct.pack(
            "<I", chance.choice([0, 1, 2**31 - 1, 2**32 - 1, length + 1, length - 1, len(data)])
        )
        return bytes(data)
    start = len(data) - 8 - length
    for _ in range(chance.randrange(1, 6)):
        data[start + chance.randrange(length)] = chance.randrange(256)
    return bytes(data)


# Tensors


def another_safetensors(seeds, chance):
    "A file of tensors with another header, right in its length"
    data = chance.choice(seeds)
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    told = header.get("__metadata__", {})
    if "spec" in told and chance.random() < 0.7:
        spec = another_tree(json.loads(told["spec"]), chance)
        header["__metadata__"] = {**told, "spec": json.dumps(spec)}
    elif told and chance.random() < 0.5:
        header["__metadata__"] = another_tree(told, chance)
    else:
        header = another_tree(header, chance)
    text = json_text(header)
    return struct.pack("<Q", len(text)) + text + body


def another_pth(seeds, chance):
    "What torch saves of something unusual"
    import collections

    import torch

    narrow = torch.zeros(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        things = [
            lambda: {"w": narrow.expand(10**9, 3)},
            lambda: {"w": torch.empty(10**9, 10**9, device="meta")},
            lambda: {"w": torch.eye(3).to_sparse(), "v": torch.eye(3).to_sparse_csr()},
            lambda: {"w": torch.quantize_per_tensor(narrow, 0.1, 0, torch.qint8)},
            lambda: {"w": torch.zeros(3, dtype=torch.complex64), "b": torch.tensor(True)},
            lambda: {"params": {"w": narrow}, "params_ema": {"w": narrow.half(), "x": None}},
            lambda: {"state_dict": collections.OrderedDict(a=narrow, b=[narrow])},
            lambda: [narrow, narrow],
            lambda: narrow,
            lambda: {1: narrow, None: narrow},
            lambda: {"": narrow, "x" * 3000: narrow, "a\nb": narrow},
            lambda: {"w": torch.nn.Parameter(narrow), "w2": narrow[1:]},
            lambda: deep({"w": narrow}, chance.choice([30, 200])),
            lambda: {"w": torch.zeros((1,) * 40), "z": torch.zeros(0, 5)},
            lambda: torch.nn.Linear(2, 2),
            lambda: {"w": np.ones(3), "f": open, "n": np.float64(1)},
            lambda: {"w": torch.full((3,), float("nan")), "i": torch.arange(3)},
            lambda: {"module.generator.w": narrow, "_orig_mod.w": narrow},
            lambda: {f"w{i}": narrow for i in range(2000)},
            lambda: "x" * 10**6,
            lambda: 10**5000,
        ]
        out = io.BytesIO()
        torch.save(chance.choice(things)(), out, _use_new_zipfile_serialization=chance.random() < 0.7)
    return out.getvalue()


def another_checkpoint(seeds, chance):
    "A checkpoint with another head, or with contents that fit the head's digest and nothing else"
    from qebias import training

    data = chance.choice(seeds)
    magic = training._MAGIC
    head, _, content = data[len(magic) :].partition(b"\n")
    tree = json.loads(head)
    if chance.random() < 0.5:
        return magic + json_text(another_tree(tree, chance)) + b"\n" + content
    content = another_pth([], chance)
    tree.pop("sha256")
    tree["sha256"] = training._checked_by(tree, content)
    return magic + json.dumps(tree).encode() + b"\n" + content


# Pictures


def another_png(seeds, chance):
    "A PNG with chunks of strangers before its pixels"
    data = chance.choice(seeds)

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    bomb = zlib.compress(bytes(chance.choice([10, 10**6, 2 * 10**7])))
    bodies = [b"", BYTES, b"x\0\0" + bomb, b"x" * 80 + b"\0\0" + bomb, b"x\0\1\0\0\0" + bomb, bytes(3000)]
    bodies += [
        b"II*\0\x08\0\0\0" + b"\xff" * 60,
        b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n9999999\nzz"),
    ]
    names = [
        b"iCCP",
        b"zTXt",
        b"iTXt",
        b"tEXt",
        b"eXIf",
        b"pHYs",
        b"gAMA",
        b"tRNS",
        b"PLTE",
        b"acTL",
        b"fcTL",
        b"IDAT",
    ]
    names += [b"IHDR", b"sRGB", b"fdAT", b"IEND", b"cHRM", b"CgBI", b"\0\0\0\0"]
    more = b"".join(
        chunk(chance.choice(names), chance.choice(bodies)) for _ in range(chance.choice([1, 2, 300]))
    )
    return data[:33] + more + data[33:]


def another_tiff(seeds, chance):
    "A TIFF of tags with values of chance"
    values = [0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 200, 255, 65535, 2**31, 2**32 - 1]
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 8, 279: 64}
    for _ in range(chance.randrange(1, 5)):
        known = [
            *tags,
            266,
            274,
            282,
            284,
            317,
            320,
            322,
            323,
            324,
            325,
            330,
            332,
            338,
            339,
            347,
            530,
            34665,
            34675,
        ]
        tags[chance.choice(known)] = chance.choice(values)
    compressions = [1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34712, 34925, 34933, 50000, 50001]
    if chance.random() < 0.5:
        tags[259] = chance.choice(compressions)
    entries = b""
    for tag, value in sorted(tags.items()):
        entries += struct.pack(
            "<HHII",
            tag,
            chance.choice([4, 4, 4, 3, 1, 2, 5, 12]),
            chance.choice([1, 1, 1, 0, 3, 2**30]),
            value,
        )
    after = chance.choice([0, 0, 8, 2**32 - 1])
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", after)
    return head + bytes(chance.randrange(256) for _ in range(600))


SHAPES = {
    "png": another_png,
    "tif": another_tiff,
    "safetensors": another_safetensors,
    "model": another_safetensors,
    "pth": another_pth,
    "checkpoint": another_checkpoint,
    "json": another_json,
    "manifest": another_json,
    "stats": another_stats,
    "yaml": another_yaml,
    "profile": another_yaml,
    "claims": another_yaml,
    "parquet": another_parquet,
    "results": another_parquet,
    "csv": another_csv,
}


def made(kind, seeds, number) -> bytes | None:
    "A file of a kind, for a number; None where the kind has no such files"
    if kind not in SHAPES:
        return None
    return SHAPES[kind](seeds, random.Random(number))
