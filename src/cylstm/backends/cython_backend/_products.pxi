# Matrix products with packed panels, cut into tiles. Part of _lstm.pyx.

# out[g] (rows, 4 VL) = start[g] + a (rows, K) @ panels[g] (K, 4 VL), for several g, cut into tiles
cdef struct Products:
    ProductTile tile             # rows, columns, and the pointers in it are set for each tile
    Py_ssize_t rows
    Py_ssize_t columns           # of all panels together
    Py_ssize_t panel_step, start_step, out_step  # from one g to the next
    const void* panels
    const void* start            # or NULL
    const void* a
    void* out


cdef Py_ssize_t _tiles(const Kernels* kernels, const Products* p) noexcept nogil:
    """Tiles of one panel."""
    return _ceil_div(p.rows, kernels.max_rows)


cdef inline bint _is_large(const Kernels* kernels, Py_ssize_t K) noexcept nogil:
    """Whether a panel (K, 4 VL) is so large that the first tile that needs it would wait for it."""
    return K * 4 * kernels.lanes * kernels.itemsize >= LARGE_PANEL


cdef inline const void* _share(const Kernels* kernels, const void* panel, Py_ssize_t K, Py_ssize_t n) noexcept nogil:
    """The lines of a panel (K, 4 VL) that the n-th tile of the panel before it fetches; NULL beyond its end."""
    return <const char*>panel + n * K * LINE if n * LINE < 4 * kernels.lanes * kernels.itemsize else NULL


cdef void _run_products(
    const Kernels* kernels,
    Products* p,
    Py_ssize_t first, Py_ssize_t last,  # tiles to compute, counted through all panels: panel = index // _tiles
    real zero,                          # of the type of the arrays
) noexcept nogil:
    cdef Py_ssize_t tiles = _tiles(kernels, p), W = 4 * kernels.lanes, index, g, low
    cdef ProductTile* tile = &p.tile
    cdef bint large = tiles > 1 and _is_large(kernels, tile.segments * tile.K)
    for index in range(first, last):
        g = index // tiles
        low = (index % tiles) * p.rows // tiles
        tile.rows = (index % tiles + 1) * p.rows // tiles - low
        tile.columns = min(W, p.columns - g * W)
        tile.panel = <const real*>p.panels + g * p.panel_step
        tile.fetch = NULL
        if large:  # beyond the last panel too: a fetch cannot fail
            tile.fetch = _share(kernels, <const real*>tile.panel + p.panel_step, tile.segments * tile.K, index % tiles)
        tile.start = NULL
        if p.start != NULL:
            tile.start = <const real*>p.start + g * p.start_step + low * tile.start_stride
        tile.a = <const real*>p.a + low * tile.a_row
        tile.out = <real*>p.out + g * p.out_step + low * tile.out_stride
        kernels.product(tile)
