# Matrix products with packed panels, cut into tiles.

from ._kernels cimport LINE, Factor, Kernels, ProductTile
from ._partition cimport is_large_panel
from ._pass cimport ceil_div

# out[g] (rows, W) = start[g] + a (rows, K) @ panels[g] (K, W), for several g. Steps count elements of state.
cdef struct Products:
    ProductTile tile             # rows, columns, and the pointers in it are set for each tile
    Py_ssize_t rows
    Py_ssize_t columns           # of all panels together
    Py_ssize_t panel_step        # bytes from one g to the next
    Py_ssize_t start_step, out_step
    const void* panels
    const void* start            # or NULL
    const void* a
    void* out


cdef inline void init_products(
    Products* p, Py_ssize_t segments, Py_ssize_t K, Py_ssize_t a_row, Py_ssize_t a_segment, Py_ssize_t out_stride,
) noexcept nogil:
    """Products of rows of a that lie a_row apart, their K numbers side by side; no start."""
    p.start, p.start_step = NULL, 0
    p.tile.start_stride = 0
    p.tile.segments, p.tile.K, p.tile.a_row, p.tile.a_k, p.tile.a_segment = segments, K, a_row, 1, a_segment
    p.tile.out_stride = out_stride


cdef inline Py_ssize_t tiles_of(const Kernels* kernels, const Products* p) noexcept nogil:
    """Tiles of one panel."""
    return ceil_div(p.rows, kernels.max_rows)


cdef inline const void* prefetch_slice(
    const Factor* factor, const void* panel, Py_ssize_t K, Py_ssize_t n
) noexcept nogil:
    """The lines of a panel (K, 4, VL) that the n-th tile of the panel before it prefetches; NULL beyond its end."""
    return <const char*>panel + n * ceil_div(K, factor.group) * LINE if n * LINE < factor.group_bytes else NULL


cdef inline void run_products(
    const Kernels* kernels,
    Products* p,
    Py_ssize_t first, Py_ssize_t last,  # tiles to compute, counted through all panels: panel = index // tiles_of
) noexcept nogil:
    cdef Py_ssize_t tiles = tiles_of(kernels, p), W = 4 * kernels.lanes, item = kernels.itemsize, index, g, low
    cdef ProductTile* tile = &p.tile
    cdef bint large = tiles > 1 and is_large_panel(&kernels.input, tile.segments * tile.K)
    for index in range(first, last):
        g = index // tiles
        low = (index % tiles) * p.rows // tiles
        tile.rows = (index % tiles + 1) * p.rows // tiles - low
        tile.columns = min(W, p.columns - g * W)
        tile.panel = <const char*>p.panels + g * p.panel_step
        tile.prefetch = NULL
        if large:  # beyond the last panel too: a prefetch cannot fail
            tile.prefetch = prefetch_slice(
                &kernels.input, <const char*>tile.panel + p.panel_step, tile.segments * tile.K, index % tiles)
        tile.start = NULL
        if p.start != NULL:
            tile.start = <const char*>p.start + (g * p.start_step + low * tile.start_stride) * item
        tile.a = <const char*>p.a + low * tile.a_row * kernels.input.operand_bytes
        tile.out = <char*>p.out + (g * p.out_step + low * tile.out_stride) * item
        kernels.product(tile)
