"""Records a narrow CLIP and tokens for crates/semanticist-verify/tests/data/reference/clip.safetensors and
crates/semanticist-eval/tests/data/clip/.

The network is `transformers`' CLIPModel with random weights, once with each of its activations, under the names of its
published files. The tokenizer has the parts of CLIP's `tokenizer.json` and merges learnt from a few sentences. What images are
prepared to is OpenAI's `_transform` (openai/CLIP, clip/clip.py) of torchvision.
Usage: record_clip.py NETWORK.safetensors TOKENIZER_FOLDER    (needs torch, torchvision, transformers, tokenizers, safetensors)
"""

import json
import pathlib
import sys

import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torchvision import transforms
from transformers import CLIPConfig, CLIPModel

torch.manual_seed(0)
SIDE, PATCH, CONTEXT = 32, 8, 40
START, END = "<|startoftext|>", "<|endoftext|>"
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LEARNT = [
    "a photo of a cat.", "a photo of the dog.", "a photo of many owls.", "a bad photo of a goldfish.", "a drawing of a golden bird.",
    "a close-up photo of the small dog.", "the toy cat in a video game.", "itap of my large bird.", "a good photo of an apple.",
]
SENTENCES = [
    "a photo of a cat.", "A  Photo\tof THE Golden Retriever!", "it's the dogs' 2nd bowl: 1234", "crème brûlée, 写真 🦉", "itap of my t-shirt.", "",
]


def tokenizer():
    """As openai/clip-vit-base-patch32 has it."""
    whole = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>", continuing_subword_prefix=""))
    whole.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    whole.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(words), behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=10**6, min_frequency=2, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    whole.train_from_iterator(LEARNT, trainer)
    learnt = json.loads(whole.to_str())["model"]
    # The order of CLIP's vocabulary: bytes, bytes that end a word, merges, start, end.
    pieces = alphabet + [byte + "</w>" for byte in alphabet]
    merges = [tuple(merge) for merge in learnt["merges"]]
    pieces += [left + right for left, right in merges if left + right not in pieces]
    vocabulary = {piece: number for number, piece in enumerate(pieces + [START, END])}
    whole.model = models.BPE(
        vocabulary, merges, unk_token=END, end_of_word_suffix="</w>", continuing_subword_prefix="", fuse_unk=False
    )
    whole.add_special_tokens([START, END])
    whole.post_processor = processors.RobertaProcessing(
        (END, vocabulary[END]), (START, vocabulary[START]), trim_offsets=False, add_prefix_space=False
    )
    return whole


def network(activation, vocabulary):
    text = dict(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=1, max_position_embeddings=CONTEXT,
        vocab_size=vocabulary, hidden_act=activation, bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1,
    )
    image = dict(
        hidden_size=128, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=PATCH,
        hidden_act=activation,
    )
    config = CLIPConfig(text_config=text, vision_config=image, projection_dim=48, attn_implementation="eager")
    return CLIPModel(config).eval()


folder = pathlib.Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
words = tokenizer()
words.save(str(folder / "tokenizer.json"))
rows = [words.encode(sentence).ids for sentence in SENTENCES]
(folder / "tokens.json").write_text(json.dumps({"sentences": SENTENCES, "tokens": rows}, ensure_ascii=False, indent=1) + "\n")

# Each row ends at its first end of text; what follows must not count.
rows = rows[:3]
longest = max(map(len, rows))
tokens = torch.tensor([row + [words.token_to_id(END)] * (longest - len(row)) for row in rows])
images = torch.rand(2, 3, SIDE, SIDE)
pixels = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
tensors = {"tokens": tokens, "images": images}

photo = (torch.rand(45, 70, 3) * 255).round()
picture = Image.fromarray(photo.to(torch.uint8).numpy())
prepare = transforms.Compose([
    transforms.Resize(SIDE, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(SIDE), transforms.ToTensor(),
])
tensors |= {"photo": photo, "prepared": prepare(picture)}

weights = None
for activation in ("quick_gelu", "gelu"):
    model = network(activation, words.get_vocab_size())
    if weights is None:
        for name, parameter in model.named_parameters():
            spread = 0.3 if parameter.ndim < 2 else 1.5 * parameter[0].numel() ** -0.5
            values = torch.randn_like(parameter) * spread
            if "norm" in name and name.endswith("weight"):
                values += 1
            if name == "logit_scale":
                values = torch.tensor(2.5)
            # What half precision holds, so that the file can be small.
            parameter.data = values.half().float()
        weights = model.state_dict()
    model.load_state_dict(weights)
    layers = {"image": model.vision_model.encoder.layers, "text": model.text_model.encoder.layers}
    for tower, blocks in layers.items():
        for number, block in enumerate(blocks):

            def keep(_, __, out, name=f"{activation}.{tower}.layer_{number}"):
                tensors[name] = out[0] if isinstance(out, tuple) else out

            block.register_forward_hook(keep)
    with torch.no_grad():
        image = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        text = model.text_projection(model.text_model(input_ids=tokens).pooler_output)
        out = model(input_ids=tokens, pixel_values=pixels)
    assert torch.allclose(out.image_embeds, image / image.norm(dim=-1, keepdim=True), atol=1e-6)
    tensors |= {f"{activation}.image.embedding": image, f"{activation}.text.embedding": text}
    tensors[f"{activation}.logits"] = out.logits_per_image
    print(activation, out.logits_per_image)

tensors |= {f"weights.{name}": value.half() for name, value in weights.items() if value.is_floating_point()}
config = {"note": "transformers' CLIPModel, narrow, random weights", "activations": ["quick-gelu", "gelu"], "layers": 2}
tensors = {name.replace("quick_gelu.", "quick-gelu."): value.contiguous() for name, value in tensors.items()}
save_file(tensors, sys.argv[1], {"config": json.dumps(config)})
print(len(tensors), "tensors", words.get_vocab_size(), "pieces")
