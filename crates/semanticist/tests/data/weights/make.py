"""Writes the .pkl files beside it: what torch.save would write, and what an attacker would.

Needs only the standard library. Names and wrappers are those of the published checkpoints.
"""
import collections, io, os, pickle, struct, sys, types, zipfile

# Just enough of torch for pickle to find the names it writes.
torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
sys.modules.update({"torch": torch, "torch._utils": utils})


def _rebuild_tensor_v2(*arguments):
    raise NotImplementedError


_rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
utils._rebuild_tensor_v2 = _rebuild_tensor_v2
FORMATS = {"FloatStorage": "<f", "HalfStorage": "<e", "DoubleStorage": "<d", "BFloat16Storage": None, "LongStorage": "<q"}
for name in FORMATS:
    setattr(torch, name, type(name, (), {"__module__": "torch"}))


def element(storage, value):
    if storage == "BFloat16Storage":
        return struct.pack("<f", value)[2:]
    return struct.pack(FORMATS[storage], value)


class Storage:
    def __init__(self, kind, key, values):
        self.kind, self.key, self.values = kind, key, values
        self.data = b"".join(element(kind, value) for value in values)


class Tensor:
    """Its values count up in quarters from `start`, which every format holds exactly."""

    def __init__(self, shape, start=0, kind="FloatStorage"):
        self.shape, self.start, self.kind = shape, start, kind

    def __reduce__(self):
        count, strides = 1, []
        for length in reversed(self.shape):
            strides.insert(0, count)
            count *= length
        storage = Storage(self.kind, str(len(storages)), [self.start + i / 4 if self.kind != "LongStorage" else i for i in range(count)])
        storages.append(storage)
        return _rebuild_tensor_v2, (storage, 0, tuple(self.shape), tuple(strides), False, collections.OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        if isinstance(thing, Storage):
            return "storage", getattr(torch, thing.kind), thing.key, "cpu", len(thing.values)


class Attack:
    def __reduce__(self):
        return os.system, ("touch PWNED",)


def dumped(thing):
    global storages
    storages, out = [], io.BytesIO()
    Pickler(out, protocol=2).dump(thing)
    return out.getvalue()


def zipped(path, thing):
    data = dumped(thing)
    with zipfile.ZipFile(path, "w") as archive:
        def put(name, content):
            archive.writestr(zipfile.ZipInfo("archive/" + name, (1980, 1, 1, 0, 0, 0)), content)
        put("data.pkl", data)
        put("byteorder", "little")
        for storage in storages:
            put("data/" + storage.key, storage.data)
        put("version", "3\n")


def legacy(path, thing):
    data = dumped(thing)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    with open(path, "wb") as out:
        for part in (0x1950A86A20F9469CFC6C, 1001, system):
            pickle.dump(part, out, protocol=2)
        out.write(data)
        pickle.dump([storage.key for storage in storages], out, protocol=2)
        for storage in storages:
            out.write(struct.pack("<q", len(storage.values)) + storage.data)


def tokenizer(start):
    return collections.OrderedDict([
        ("encoder.cls_token", Tensor([1, 1, 3], start)),
        ("encoder.blocks.11.attn.proj.weight", Tensor([2, 3], start + 1, "HalfStorage")),
        ("encoder2slot._orig_mod.bias", Tensor([4], start + 2, "BFloat16Storage")),
        ("dit._orig_mod.blocks.0.adaLN_modulation.1.bias", Tensor([6], start + 3, "DoubleStorage")),
        ("dit._orig_mod.pos_embed", Tensor([1, 2, 3], start + 4)),
    ])


zipped("published.pkl", tokenizer(0))
legacy("legacy.pkl", tokenizer(0))
wrapped = {"module." + name: tensor for name, tensor in tokenizer(10).items()}
zipped("training.pkl", {"epoch": 3, "model": tokenizer(20), "ema": wrapped, "optimizer": {"state": {0: {"exp_avg": Tensor([2])}}}})
zipped("unknown.pkl", tokenizer(0) | {"dit.surprise.weight": Tensor([1])})
zipped("repeated.pkl", tokenizer(0) | {"encoder2slot.bias": Tensor([4])})
autoencoder = {"quant_conv.weight": Tensor([2, 2, 1, 1]), "loss.logvar": Tensor([1])}
zipped("autoencoder.pkl", {"epoch": 3, "model": autoencoder, "optimizer": {"state": {0: {"exp_avg": Tensor([2])}}}})
inside = {"first_stage_model." + name: tensor for name, tensor in autoencoder.items()}
zipped("latent_diffusion.pkl", {"state_dict": inside | {"model.diffusion_model.out.bias": Tensor([1])}})
zipped("attack_inside.pkl", tokenizer(0) | {"dit.null_cond": Attack()})
with open("attack.pkl", "wb") as out:
    pickle.dump(Attack(), out, protocol=2)
