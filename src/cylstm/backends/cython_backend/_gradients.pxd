# The gradients of input and weights in a backward pass: products over a chunk of steps, eq. (11) and (12).

from ._backward_pass cimport BackwardPass, Chunk, Scratch
from ._pass cimport Pass, Shape, ceil_div, real
from ._product cimport Products, init_products, run_products, tiles_of


cdef inline void chunk_gradients(
    const BackwardPass* b, int part, real* scratch, const real* input, real* grad_input,
) noexcept nogil:
    """What a chunk adds to the gradients of input and weights, the part of `team` parts with this index."""
    cdef const Pass* p = b.p
    cdef const Shape* s = p.shape
    cdef const Scratch* at = &b.at
    cdef const Chunk* chunk = &b.chunk
    cdef Py_ssize_t W = 4 * s.VL, I = s.I, R = s.R, tiles
    cdef bint first_chunk = chunk.last_step == s.T
    cdef real one = 1
    cdef Products products
    # (11) grad_input = grad_a W_ih
    init_products(&products, s.blocks, W, W, at.chunk_rows * W, I)
    products.rows, products.columns = chunk.rows, I
    products.panels, products.panel_step = p.packed.weight_ih_t, s.blocks * W * p.kernels.input.group_bytes
    products.a, products.out, products.out_step = scratch + at.grad_a, grad_input + chunk.first * I, W
    tiles = ceil_div(I, W) * tiles_of(p.kernels, &products)
    run_products(p.kernels, &products, tiles * part // b.team, tiles * (part + 1) // b.team)
    # (12) grad_W_ih += grad_aᵀ x, transposed: as (I, 4 VL) for each block
    init_products(&products, 1, chunk.rows, 1, 0, W)
    products.panels, products.panel_step = scratch + at.grad_a, at.chunk_rows * W * <Py_ssize_t>sizeof(real)
    products.columns = s.blocks * W
    products.a, products.rows, products.tile.a_k = input + chunk.first * I, I, I
    add_products(b, part, &products, scratch + at.grad_weight_ih, first_chunk)
    # (12) grad_W_hh += grad_aᵀ h_prev
    products.a = <real*>b.kept.h_prev + (chunk.first - b.kept.first) * R
    products.rows, products.tile.a_k = R, R
    add_products(b, part, &products, scratch + at.grad_weight_hh, first_chunk)
    # (12) grad_b += grad_aᵀ 1
    products.a, products.rows, products.tile.a_row, products.tile.a_k = &one, 1, 0, 0
    add_products(b, part, &products, scratch + at.grad_bias, first_chunk)
    if s.P:  # (12) grad_W_hr += grad_projectedᵀ h
        products.panels, products.columns = scratch + at.h, ceil_div(s.H, W) * W
        products.a, products.rows = scratch + at.grad_projected, s.P
        products.tile.a_row, products.tile.a_k = 1, at.P_stride
        add_products(b, part, &products, scratch + at.grad_weight_hr, first_chunk)


cdef inline void add_products(
    const BackwardPass* b, int part,
    Products* products,  # a (rows, K) @ panels (count, K, W), all but out and start
    real* out,           # IN/OUT (count, rows, W)
    bint first_chunk,    # nothing is in `out` yet
) noexcept nogil:
    """out[g] += a panels[g]. The sums run over the chunks in order, whoever computes them."""
    cdef const Pass* p = b.p
    cdef Py_ssize_t W = 4 * p.shape.VL, tiles
    products.out, products.out_step = out, products.rows * W
    products.start, products.start_step, products.tile.start_stride = NULL, 0, 0
    if not first_chunk:
        products.start, products.start_step, products.tile.start_stride = out, products.rows * W, W
    tiles = products.columns // W * tiles_of(p.kernels, products)
    run_products(p.kernels, products, tiles * part // b.team, tiles * (part + 1) // b.team)
