"""The blocks of a timm transformer taken apart, so that their attention can be read and is formed only where it is."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from timm.layers import Attention, Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

# Bytes of the attention that is formed at once. On a CPU what is computed with it should find it in the cache; a GPU
# wants large pieces, of which the memory is a small part.
PIECE, LARGE_PIECE = 2**20, 2**28
KEPT = 2**24  # bytes of a layer's attention that are not worth being formed twice


@dataclass(frozen=True)
class Keep:
    """What a forward pass leaves beside the logits; nothing is computed that neither it nor they need.

    Args:
        attention: layers, counted from 0, whose attention averaged over heads is kept; None: all.
        layers: how many last layers have rows kept, head by head, of which gradients can be asked.
        all_rows: whether these are the rows of all tokens rather than those of the special ones.
        class_maps: whether the patch tokens of the last layer are read.
    """

    attention: tuple[int, ...] | None = None
    layers: int = 0
    all_rows: bool = False
    class_maps: bool = False

    def reads(self, layer: int) -> bool:
        """Whether the attention of a layer is kept."""
        return self.attention is None or layer in self.attention


ATTENTION = Keep()  # of every layer


class Passed(NamedTuple):
    """Tokens behind the last block, with patches where these are read; attentions and rows as in `acr.models.trace.Trace`."""

    tokens: Tensor
    attentions: tuple[Tensor | None, ...]
    rows: tuple[Tensor, ...]


def through(blocks: nn.Sequential, tokens: Float[Tensor, "B N D"], special: int, keep: Keep) -> Passed:
    """Sends tokens, of which the first are `special`, through the blocks.

    Where `keep.layers` asks for rows, parameters must be frozen: the graph begins at the rows of the first of these
    layers. Patch tokens are apart from there on, so that it holds no more than what the rows can reach.
    """
    first = len(blocks) - keep.layers
    behind = tokens.shape[1] if keep.class_maps else special  # tokens that are read behind the last block
    attentions, rows = [], []
    for layer, block in enumerate(blocks[:first]):
        assert isinstance(block, Block)
        count = behind if layer == len(blocks) - 1 else tokens.shape[1]
        tokens, mean = _whole(block, tokens, count, keep.reads(layer))
        attentions.append(mean)
    if not keep.layers:
        return Passed(tokens, tuple(attentions), ())
    own = tokens.shape[1] if keep.all_rows else special
    tokens, patches = tokens[:, :own], tokens[:, own:]
    for layer, block in enumerate(blocks[first:], first):
        assert isinstance(block, Block)
        used = patches.shape[1] if keep.class_maps or layer < len(blocks) - 1 else 0
        tokens, patches, row, mean = _apart(block, tokens, patches, used, keep.reads(layer))
        attentions.append(mean)
        rows.append(row)
    return Passed(torch.cat([tokens, patches], 1), tuple(attentions), tuple(rows))


def _whole(block: Block, tokens: Tensor, count: int, read: bool) -> tuple[Tensor, Tensor | None]:
    """The first `count` tokens behind a block, and its mean attention where it is read."""
    heads = project(block, tokens)
    if read:
        output, mean = gather_and_mean(heads)
        output = output[:, :, :count]
    else:
        output, mean = gather(heads._replace(queries=heads.queries[:, :, :count])), None
    return finish(block, tokens[:, :count], output), mean


def _apart(
    block: Block, tokens: Tensor, patches: Tensor, used: int, read: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Tokens and the first `used` patches behind a block, the tokens' rows of its attention, and its mean where it is read."""
    own, others = project(block, tokens), project(block, patches)
    keys, values = (torch.cat(pair, 2) for pair in ((own.keys, others.keys), (own.values, others.values)))
    rows = attention_of(own.queries, keys)
    if not rows.requires_grad:
        rows.requires_grad_()
    heads, mean = Heads(others.queries, keys, values), None
    if read:
        output, patch_mean = gather_and_mean(heads)
        mean = torch.cat([rows.mean(1), patch_mean], 1).detach()
        output = output[:, :, :used]
    else:
        output = gather(heads._replace(queries=others.queries[:, :, :used]))
    behind = finish(block, patches[:, :used], output) if used else patches[:, :0]
    return finish(block, tokens, rows.to(values.dtype) @ values), behind, rows, mean


class Heads(NamedTuple):
    """Queries, keys and values, "B A N d" each."""

    queries: Tensor
    keys: Tensor
    values: Tensor


def readable(block: nn.Module) -> bool:
    """Whether `block` is one that this module can take apart: timm's plain pre-norm block, without dropped attention."""
    layer = getattr(block, "attn", None)
    if type(block) is not Block or type(layer) is not Attention:
        return False
    plain = getattr(layer, "gate", None) is None and isinstance(getattr(layer, "norm", nn.Identity()), nn.Identity)
    return plain and layer.attn_drop.p == 0


def attention_layer(block: nn.Module) -> Attention:
    """The layer of a `readable` block that makes queries, keys and values of its tokens."""
    layer = block.attn
    assert isinstance(layer, Attention)
    return layer


def project(block: Block, tokens: Float[Tensor, "B N D"]) -> Heads:
    """What the heads of a block make of its tokens."""
    layer = attention_layer(block)
    shape = (*tokens.shape[:2], 3, layer.num_heads, layer.qkv.out_features // (3 * layer.num_heads))
    queries, keys, values = lean(layer.qkv, block.norm1, tokens).view(shape).permute(2, 0, 3, 1, 4).unbind(0)
    return Heads(layer.q_norm(queries), layer.k_norm(keys), values)


def finish(block: Block, tokens: Float[Tensor, "B N D"], output: Float[Tensor, "B A N d"]) -> Float[Tensor, "B N D"]:
    """The tokens behind the block, from those before it and what its heads gathered for them."""
    layer = attention_layer(block)
    gathered = layer.proj_drop(layer.proj(output.transpose(1, 2).flatten(2)))
    tokens = tokens + block.drop_path1(block.ls1(gathered))
    return tokens + block.drop_path2(block.ls2(_perceptron(block, tokens)))


def _perceptron(block: Block, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
    layer = block.mlp
    if type(layer) is not Mlp or not isinstance(layer.norm, nn.Identity):
        return layer(block.norm2(tokens))
    first, second = layer.fc1, layer.fc2
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    return layer.drop2(lean(second, layer.act, layer.drop1(lean(first, block.norm2, tokens))))


def lean(layer: nn.Linear, before: nn.Module, tensor: Float[Tensor, "B N _"]) -> Float[Tensor, "B N _"]:
    """`layer(before(tensor))`, of which a layer that is trained keeps no more than `tensor`.

    What its weights' gradient is made from costs little beside the layer itself, and is computed again when it is asked for.
    """
    if not (torch.is_grad_enabled() and layer.weight.requires_grad):
        return layer(before(tensor))
    return _Lean.apply(before, layer.weight, layer.bias, tensor, *before.parameters())


class _Lean(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, before: nn.Module, weight: Tensor, bias: Tensor | None, tensor: Tensor, *parameters: Tensor
    ) -> Tensor:
        context.before, context.biased = before, bias is not None
        context.cast = torch.is_autocast_enabled(tensor.device.type)
        context.save_for_backward(weight, tensor, *parameters)
        return functional.linear(before(tensor), weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, outward: Tensor) -> tuple[Tensor | None, ...]:
        weight, tensor, *parameters = context.saved_tensors
        leaf = tensor.detach().requires_grad_()
        with torch.autocast(tensor.device.type, torch.bfloat16, enabled=context.cast):
            with torch.enable_grad():
                made = context.before(leaf)
            rows = outward.flatten(0, 1)
            of_weight = (rows.T @ made.detach().flatten(0, 1)).to(weight.dtype)
            of_bias = rows.sum(0, dtype=weight.dtype) if context.biased else None
            inward = (rows @ weight).view_as(made).to(made.dtype)
        return None, of_weight, of_bias, *torch.autograd.grad(made, [leaf, *parameters], inward)


def gather(heads: Heads) -> Float[Tensor, "B A N d"]:
    """What each token gathers from all others; the attention itself is never formed."""
    return functional.scaled_dot_product_attention(*heads)


def attention_of(queries: Float[Tensor, "*B N d"], keys: Float[Tensor, "*B M d"]) -> Float[Tensor, "*B N M"]:
    """Attention head by head: rows are queries and sum to one."""
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    return scores.softmax(-1, dtype=_wide(scores))


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def gather_and_mean(heads: Heads) -> tuple[Float[Tensor, "B A N d"], Float[Tensor, "B N M"]]:
    """What each token gathers, and the attention averaged over heads; both can be differentiated.

    The attention of all heads is formed piece by piece; where it is large, it is not kept and the backward pass forms it again.
    """
    return _GatherAndMean.apply(*heads)


class _GatherAndMean(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, *heads: Tensor) -> tuple[Tensor, Tensor]:
        queries, keys, values = heads
        shape = (*queries.shape[:3], keys.shape[2])
        keep = any(context.needs_input_grad) and 4 * math.prod(shape) <= KEPT
        output, kept = torch.empty_like(queries), []
        mean = queries.new_zeros(shape[0], *shape[2:], dtype=_wide(queries))
        for piece in _pieces(queries, keys):
            attention = attention_of(queries[piece], keys[piece])
            output[piece] = attention.to(values.dtype) @ values[piece]
            mean[piece[0]] += attention.squeeze(1) if attention.shape[1] == 1 else attention.sum(1)
            if keep:
                kept.append(attention)
        context.save_for_backward(*heads, *kept)
        context.set_materialize_grads(False)
        return output, mean.div_(queries.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, of_output: Tensor | None, of_mean: Tensor | None) -> tuple[Tensor, ...]:
        queries, keys, values, *kept = context.saved_tensors
        of_head = queries.new_zeros(len(keys), 1, 1) if of_mean is None else of_mean / queries.shape[1]
        gradients = tuple(torch.zeros_like(each) for each in (queries, keys, values))
        for number, piece in enumerate(_pieces(queries, keys)):
            heads = Heads(queries[piece], keys[piece], values[piece])
            attention = kept[number] if kept else attention_of(*heads[:2])
            outward = None if of_output is None else of_output[piece]
            for gradient, part in zip(gradients, _gradients(heads, attention, outward, of_head[piece[0]]), strict=True):
                if part is not None:
                    gradient[piece] = part
        return gradients


def _gradients(
    heads: Heads, attention: Tensor, of_output: Tensor | None, of_head: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of queries, keys and values from those of what they gather and, the same for every head, of their attention."""
    queries, keys, values = heads
    inward, of_values = of_head.unsqueeze(1), None
    if of_output is not None:
        of_values = attention.to(values.dtype).transpose(-1, -2) @ of_output
        inward = of_output @ values.transpose(-1, -2) + inward
    inward = torch.ops.aten._softmax_backward_data(inward.expand_as(attention), attention, -1, attention.dtype)
    inward, scale = inward.to(queries.dtype), queries.shape[-1] ** -0.5
    return inward @ (keys * scale), inward.transpose(-1, -2) @ (queries * scale), of_values


def _pieces(queries: Float[Tensor, "B A N d"], keys: Float[Tensor, "B A M d"]) -> Iterator[tuple[slice, slice]]:
    """Images and heads whose attention is formed at once: several images with all heads, or some heads of one image."""
    images, heads, rows = queries.shape[:3]
    piece = PIECE if queries.device.type == "cpu" else LARGE_PIECE
    some = max(1, piece // max(1, 4 * rows * keys.shape[2]))
    for image in range(0, images, step := max(1, some // heads)):
        for head in range(0, heads, some):
            yield slice(image, image + step), slice(head, head + some)
