"""The Triton kernels of `kernels/fuse_triton.py`.

The arithmetic is the torch twin's, float64 and without fused multiply-add, and whole numbers in the
sums, so that the order of atomic additions does not matter.

Memory: depth float32 [views, height, width], mask uint8 [views, height, stride]; the table has
int64 keys [places], sums [places, 4] (offset x, y, z, and one word with blue and pixels), red and
green in one word [places], and view bits [places, words]. Flags: points too far away, table full,
number of voxels, number of tiles, tiles taken beyond the first of each program.
"""

import triton
import triton.language as tl


@triton.jit
def tile_kernel(
    mask_words, tiles, flags, height, down, across, words_a_row,
    ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Append the tiles of a part of a view in which a pixel is marked."""
    view, parts = tl.program_id(1).to(tl.int64), tl.cdiv(across, GROUPS)
    band, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    row = band * ROWS + tl.arange(0, ROWS)[:, None]
    word = part * 4 * GROUPS + tl.arange(0, 4 * GROUPS)[None, :]
    there = (row < height) & (word < words_a_row)
    loaded = tl.load(mask_words + (view * height + row) * words_a_row + word, mask=there, other=0)
    marked = tl.max((loaded != 0).to(tl.int32), axis=0)
    marked = tl.max(tl.reshape(marked, [GROUPS, 4]), axis=1)
    found = tl.sum(marked, axis=0)
    if found > 0:
        begin = tl.atomic_add(flags + 3, found, sem="relaxed")
        slot = begin + tl.cumsum(marked, axis=0) - 1
        tile = (view * down + band) * across + part * GROUPS + tl.arange(0, GROUPS)
        tl.store(tiles + slot, tile, mask=marked > 0)


@triton.jit
def _nearest(one, two, three):
    """Return the nearest of three depths; 0 is none."""
    far = float("inf")
    nearest = tl.minimum(tl.where(one > 0, one, far), tl.where(two > 0, two, far))
    return tl.minimum(nearest, tl.where(three > 0, three, far))


@triton.jit
def _near_cell(point, origin, inverse):
    """Return floor((point - origin) / voxel) by a product, and how far it was from rounding over.

    The distance is the upper half of a float64, whose order is that of whole numbers.
    """
    quotient = (point - origin) * inverse
    whole = (quotient + 6755399441055744.0) - 6755399441055744.0  # 1.5 x 2^52: to the nearest even
    upper = ((quotient - whole).to(tl.int64, bitcast=True) >> 32).to(tl.int32)
    return tl.where(upper < 0, whole - 1, whole), upper & 2147483647


@triton.jit
def _whole(number):
    """Return a whole number below 2^51, held as float64, as int64."""
    return (number + 6755399441055744.0).to(tl.int64, bitcast=True) - 4843621399236968448


@triton.jit
def _insert(keys, key, wanted, places, flags):
    """Return the place of each wanted key. A compare-and-swap is made where a place was empty."""
    mixed = key * -7046029254386353131  # as kernels/cells_numba.py: first_place
    place = ((mixed ^ (mixed >> 32)) * -7046029254386353131 >> 32).to(tl.int32) & (places - 1)
    tries = 0
    pending = wanted & (tl.load(keys + place, mask=wanted, other=0) != key)
    while tl.max(pending.to(tl.int32), axis=0) > 0:
        found = tl.load(keys + place, mask=pending, other=0)
        if tl.max((found == -1).to(tl.int32), axis=0) > 0:
            put = tl.where(pending, key, -1)
            found = tl.atomic_cas(keys + place, put * 0 - 1, put, sem="relaxed")
        pending = pending & (found != -1) & (found != key)
        place = tl.where(pending, (place + 1) & (places - 1), place)
        tries += 1
        if tries == 128:
            tl.atomic_max(flags + 1, 1, sem="relaxed")
            pending = pending & (tries < 0)
    return place


@triton.jit
def _mark_view(bits, place, view, wanted, words):
    """Set the bit of a view where it is not set yet."""
    word = bits + place.to(tl.int64) * words + view // 64
    bit = (place.to(tl.int64) * 0 + 1) << (view % 64)
    seen = tl.load(word, mask=wanted, other=0)
    tl.atomic_or(word, bit, mask=wanted & ((seen & bit) == 0), sem="relaxed")


@triton.jit
def _add(sums, colors, place, x, y, z, red_green, blue_pixels, wanted, HAS_COLOR: tl.constexpr):
    """Add runs of pixels to the table: neighbouring lanes take the words of one row."""
    # The odd order keeps a lane from taking two words: additions to a row then meet in one access.
    word = (tl.arange(0, 4) * 3) & 3  # 0, 3, 2, 1
    value = tl.join(tl.join(_whole(x), _whole(z)), tl.join(blue_pixels, _whole(y)))
    value = tl.reshape(value, [32, 4])
    both = wanted[:, None] & (word[None, :] >= 0)
    tl.atomic_add(sums + place[:, None] * 4 + word[None, :], value, mask=both, sem="relaxed")
    if HAS_COLOR:
        tl.atomic_add(colors + place, red_green, mask=wanted, sem="relaxed")


@triton.jit
def fuse_kernel(
    depth, mask, poses, color, color_row, color_column, numbers, tiles, keys, sums, colors, bits,
    flags, height, width, stride, down, across, color_height, color_width, places, words,
    HAS_COLOR: tl.constexpr, HAS_JUMP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Add the marked pixels of the listed tiles to the table, a tile at a time."""
    slot, count = tl.program_id(0), tl.load(flags + 3)
    while slot < count:
        # Tiles differ in work: who is done takes the next one, and asks for it a tile ahead.
        following = tl.atomic_add(flags + 4, 1, sem="relaxed") + tl.num_programs(0)
        tile = tl.load(tiles + slot)
        _fuse_tile(
            depth, mask, poses, color, color_row, color_column, numbers, keys, sums, colors, bits,
            flags, tile // (down * across), (tile // across % down * ROWS).to(tl.int32),
            (tile % across * 32).to(tl.int32), height, width, stride, color_height, color_width,
            places, words, HAS_COLOR, HAS_JUMP, ROWS,
        )  # fmt: skip
        slot = following


@triton.jit
def _cells(px, py, pz, ox, oy, oz, inverse, voxel, doubt, good):
    """Return the cells of points, divided only where a product leaves doubt."""
    cell_x, gap_x = _near_cell(px, ox, inverse)
    cell_y, gap_y = _near_cell(py, oy, inverse)
    cell_z, gap_z = _near_cell(pz, oz, inverse)
    doubtful = good & (tl.minimum(tl.minimum(gap_x, gap_y), gap_z) < doubt)
    if tl.max(doubtful.to(tl.int32), axis=0) > 0:
        cell_x, cell_y = tl.floor((px - ox) / voxel), tl.floor((py - oy) / voxel)
        cell_z = tl.floor((pz - oz) / voxel)
    return cell_x, cell_y, cell_z


@triton.jit
def _base(poses, ox, oy, oz, voxel):
    """Return the cell that keys count from, and up to where a product leaves doubt about a cell."""
    bx = tl.floor((tl.load(poses + 3) - ox) / voxel) - 1048576
    by = tl.floor((tl.load(poses + 7) - oy) / voxel) - 1048576
    bz = tl.floor((tl.load(poses + 11) - oz) / voxel) - 1048576
    # The product is off by less than 1e-6 where cells are counted from near by: divide where the
    # quotient is nearer than that to a whole number, else always.
    huge = tl.maximum(tl.maximum(tl.abs(bx), tl.abs(by)), tl.abs(bz)) > 1e8
    return bx, by, bz, tl.where(huge, 2147483647, 1051772663)  # the upper half of 1e-6


@triton.jit
def _depths(image, v, inside, to_left, to_right, height, width, HAS_JUMP: tl.constexpr):
    """Return the depth of a row, and of the pixels left and right of it; 0 outside."""
    row, there = image + v * width, (v >= 0) & (v < height)
    middle = tl.load(row, mask=inside & there, other=0.0)
    before, after = middle, middle
    if HAS_JUMP:
        before = tl.load(row - 1, mask=to_left & there, other=0.0)
        after = tl.load(row + 1, mask=to_right & there, other=0.0)
    return before, middle, after


@triton.jit
def _change_voxel(
    keys, sums, colors, bits, flags, view, places, words, new, changed, key, place, sum_x, sum_y,
    sum_z, red_green, blue_pixels, HAS_COLOR: tl.constexpr,
):  # fmt: skip
    """Add the runs that end to the table, and begin new ones."""
    ended = changed & (blue_pixels != 0)
    _add(sums, colors, place, sum_x, sum_y, sum_z, red_green, blue_pixels, ended, HAS_COLOR)
    found = _insert(keys, new, changed, places, flags)
    _mark_view(bits, found, view, changed, words)
    place, key = tl.where(changed, found, place), tl.where(changed, new, key)
    sum_x, sum_y = tl.where(changed, 0, sum_x), tl.where(changed, 0, sum_y)
    sum_z, red_green = tl.where(changed, 0, sum_z), tl.where(changed, 0, red_green)
    return key, place, sum_x, sum_y, sum_z, red_green, tl.where(changed, 0, blue_pixels)


@triton.jit
def _step(point, origin, cell, voxel, good):
    """Return offsets in a cell in whole steps, to the nearest even as torch rounds."""
    steps = (point - (origin + cell * voxel)) * 4294967296.0
    return tl.where(good, (steps + 6755399441055744.0) - 6755399441055744.0, 0)


@triton.jit
def _take_row(
    z32, ray_x, ray_y, good, r00, r01, r02, tx, r10, r11, r12, ty, r20, r21, r22, tz, ox, oy, oz,
    inverse, voxel, bx, by, bz, doubt, keys, sums, colors, bits, flags, view, places, words, key,
    place, sum_x, sum_y, sum_z, red_green, blue_pixels, far, HAS_COLOR: tl.constexpr,
):  # fmt: skip
    """Add the pixels of a row to the runs of their columns."""
    z = z32.to(tl.float64)
    x, y = ray_x * z, ray_y * z
    px, py = r00 * x + r01 * y + r02 * z + tx, r10 * x + r11 * y + r12 * z + ty
    pz = r20 * x + r21 * y + r22 * z + tz
    cx, cy, cz = _cells(px, py, pz, ox, oy, oz, inverse, voxel, doubt, good)
    key_x, key_y, key_z = _whole(cx - bx), _whole(cy - by), _whole(cz - bz)
    far |= tl.where(good, key_x | key_y | key_z, 0)
    new = (key_x << 42) | (key_y << 21) | key_z
    changed = good & (new != key)
    if tl.max(changed.to(tl.int32), axis=0) > 0:
        key, place, sum_x, sum_y, sum_z, red_green, blue_pixels = _change_voxel(
            keys, sums, colors, bits, flags, view, places, words, new, changed, key, place, sum_x,
            sum_y, sum_z, red_green, blue_pixels, HAS_COLOR,
        )  # fmt: skip
    sum_x += _step(px, ox, cx, voxel, good)
    sum_y += _step(py, oy, cy, voxel, good)
    sum_z += _step(pz, oz, cz, voxel, good)
    return key, place, sum_x, sum_y, sum_z, red_green, blue_pixels + good.to(tl.int64), far


@triton.jit
def _color(pixel, good):
    """Return red, green and blue of pixels, 0 where they do not count."""
    red = tl.load(pixel, mask=good, other=0).to(tl.int64)
    green = tl.load(pixel + 1, mask=good, other=0).to(tl.int64)
    return red, green, tl.load(pixel + 2, mask=good, other=0).to(tl.int64)


@triton.jit
def _fuse_tile(
    depth, mask, poses, color, color_row, color_column, numbers, keys, sums, colors, bits, flags,
    view, top, left, height, width, stride, color_height, color_width, places, words,
    HAS_COLOR: tl.constexpr, HAS_JUMP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Walk down 32 columns, one per lane. What rows need is loaded a row ahead."""
    u = left + tl.arange(0, 32)
    inside, to_left, to_right = u < width, (u > 0) & (u <= width), u + 1 < width
    image, marks, pose = depth + view * height * width + u, mask + view * height * stride + u, poses
    pose += view * 16
    r00, r01, r02, tx = tl.load(pose), tl.load(pose + 1), tl.load(pose + 2), tl.load(pose + 3)
    r10, r11, r12, ty = tl.load(pose + 4), tl.load(pose + 5), tl.load(pose + 6), tl.load(pose + 7)
    r20, r21, r22, tz = tl.load(pose + 8), tl.load(pose + 9), tl.load(pose + 10), tl.load(pose + 11)
    ox, oy, oz = tl.load(numbers + 10), tl.load(numbers + 11), tl.load(numbers + 12)
    voxel, inverse, jump = tl.load(numbers + 7), tl.load(numbers + 13), tl.load(numbers + 6)
    bx, by, bz, doubt = _base(poses, ox, oy, oz, voxel)
    ray_x = tl.load(numbers + 16 + height + u, mask=inside, other=0.0)
    nothing, zero = tl.zeros([32], tl.int64), tl.zeros([32], tl.float64)
    key, red_green, blue_pixels, place = nothing - 1, nothing, nothing, tl.zeros([32], tl.int32)
    sum_x, sum_y, sum_z, far = zero, zero, zero, nothing
    red, green, blue, column = nothing, nothing, nothing, nothing
    if HAS_COLOR:
        column = tl.load(color_column + u, mask=inside, other=0)
        color += view * color_height * color_width * 3
    marked = tl.load(marks + top * stride, mask=inside, other=0)
    b, m, a = _depths(image, top - 1, inside, to_left, to_right, height, width, HAS_JUMP)
    above = _nearest(b, m, a)
    b, z32, a = _depths(image, top, inside, to_left, to_right, height, width, HAS_JUMP)
    here = _nearest(b, z32, a)
    b, m, a = _depths(image, top + 1, inside, to_left, to_right, height, width, HAS_JUMP)
    for v in range(top, min(top + ROWS, height)):
        next_marked = tl.load(marks + (v + 1) * stride, mask=inside & (v + 1 < height), other=0)
        nb, nm, na = _depths(image, v + 2, inside, to_left, to_right, height, width, HAS_JUMP)
        good, below = (marked != 0) & (z32 > 0), _nearest(b, m, a)
        if HAS_JUMP:
            nearest = tl.minimum(tl.minimum(above, here), below)
            good = good & (nearest >= z32 - jump.to(tl.float32))
        red_green += (red << 32) | green  # of the row above, which has had time to come
        blue_pixels += blue << 32
        red, green, blue = nothing, nothing, nothing
        if tl.max(good.to(tl.int32), axis=0) > 0:
            key, place, sum_x, sum_y, sum_z, red_green, blue_pixels, far = _take_row(
                z32, ray_x, tl.load(numbers + 16 + v), good, r00, r01, r02, tx, r10, r11, r12, ty,
                r20, r21, r22, tz, ox, oy, oz, inverse, voxel, bx, by, bz, doubt, keys, sums,
                colors, bits, flags, view, places, words, key, place, sum_x, sum_y, sum_z,
                red_green, blue_pixels, far, HAS_COLOR,
            )  # fmt: skip
            if HAS_COLOR:
                pixel = color + (tl.load(color_row + v) * color_width + column) * 3
                red, green, blue = _color(pixel, good)
        marked, z32, above, here, b, m, a = next_marked, m, here, below, nb, nm, na
    red_green, blue_pixels = red_green + ((red << 32) | green), blue_pixels + (blue << 32)
    ended = blue_pixels != 0
    _add(sums, colors, place, sum_x, sum_y, sum_z, red_green, blue_pixels, ended, HAS_COLOR)
    if tl.max(far >> 21, axis=0) != 0 or tl.min(far, axis=0) < 0:
        tl.atomic_max(flags, 1, sem="relaxed")


@triton.jit
def voxel_kernel(
    keys, sums, colors, bits, flags, numbers, poses, out_keys, points, means, counts, views, most,
    words, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the voxels of a block of the table behind those of other blocks."""
    place = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    key = tl.load(keys + place)
    filled = key != -1
    found = tl.sum(filled.to(tl.int32), axis=0)
    if found > 0:
        begin = tl.atomic_add(flags + 2, found, sem="relaxed")
        slot = (begin + tl.cumsum(filled.to(tl.int32), axis=0) - 1).to(tl.int64)
        filled = filled & (slot < most)
        last = tl.load(sums + place * 4 + 3, mask=filled, other=1)
        pixels = last & 4294967295
        shared = pixels.to(tl.float64)
        tl.store(out_keys + slot, key, mask=filled)
        tl.store(counts + slot, pixels, mask=filled)
        voxel = tl.load(numbers + 7)
        for axis in tl.static_range(3):
            origin = tl.load(numbers + 10 + axis)
            base = tl.floor((tl.load(poses + 4 * axis + 3) - origin) / voxel)
            cell = ((key >> (42 - 21 * axis)) & 2097151) - 1048576
            total = tl.load(sums + place * 4 + axis, mask=filled, other=0)
            mean = total.to(tl.float64) / 4294967296.0 / shared
            corner = origin + (cell.to(tl.float64) + base) * voxel
            tl.store(points + slot * 3 + axis, corner + mean, mask=filled)
        red_green = tl.load(colors + place, mask=filled, other=0)
        tl.store(means + slot * 3, (red_green >> 32).to(tl.float64) / shared, mask=filled)
        green = (red_green & 4294967295).to(tl.float64)
        tl.store(means + slot * 3 + 1, green / shared, mask=filled)
        tl.store(means + slot * 3 + 2, (last >> 32).to(tl.float64) / shared, mask=filled)
        for word in range(words):
            seen = tl.load(bits + place * words + word, mask=filled, other=0)
            tl.store(views + slot * words + word, seen, mask=filled)


@triton.jit
def vote_kernel(
    depth, mask, voters, poses, numbers, points, flags, ballots, most, num_voters, height, width,
    stride, BLOCK: tl.constexpr, VIEWS: tl.constexpr,
):  # fmt: skip
    """Count the votes of some views for all voxels, a block at a time."""
    count = tl.minimum(tl.load(flags + 2), most)
    tolerance = tl.load(numbers + 9)
    fx, fy, cx, cy = (
        tl.load(numbers),
        tl.load(numbers + 1),
        tl.load(numbers + 2),
        tl.load(numbers + 3),
    )
    first = tl.program_id(1) * VIEWS
    for block in range(tl.program_id(0), tl.cdiv(count, BLOCK), tl.num_programs(0)):
        index = block * BLOCK + tl.arange(0, BLOCK)
        exists = index < count
        px = tl.load(points + index * 3, mask=exists, other=0.0)
        py = tl.load(points + index * 3 + 1, mask=exists, other=0.0)
        pz = tl.load(points + index * 3 + 2, mask=exists, other=0.0)
        visible, agree = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int32)
        for voter in range(first, min(first + VIEWS, num_voters)):
            view = tl.load(voters + voter)
            pose = poses + view * 16
            x, y, z = px - tl.load(pose + 3), py - tl.load(pose + 7), pz - tl.load(pose + 11)
            right = x * tl.load(pose) + y * tl.load(pose + 4) + z * tl.load(pose + 8)
            down = x * tl.load(pose + 1) + y * tl.load(pose + 5) + z * tl.load(pose + 9)
            ahead = x * tl.load(pose + 2) + y * tl.load(pose + 6) + z * tl.load(pose + 10)
            known = exists & (ahead > 1e-9)
            over = tl.where(known, ahead, 1.0)
            u, v = tl.floor(right / over * fx + cx + 0.5), tl.floor(down / over * fy + cy + 0.5)
            known = known & (u >= 0) & (u < width) & (v >= 0) & (v < height)
            row, column = tl.where(known, v, 0).to(tl.int32), tl.where(known, u, 0).to(tl.int32)
            line = view * height + row
            surface = tl.load(depth + line * width + column, mask=known, other=0.0)
            marked = tl.load(mask + line * stride + column, mask=known, other=0)
            known = known & (surface > 0)
            surface = surface.to(tl.float64)
            known = known & (ahead <= surface + tolerance)
            visible += known.to(tl.int32)
            known = known & (ahead >= surface - tolerance)
            agree += (known & (marked != 0)).to(tl.int32)
        tl.atomic_add(ballots + index, visible.to(tl.int64), mask=exists, sem="relaxed")
        tl.atomic_add(ballots + most + index, agree.to(tl.int64), mask=exists, sem="relaxed")
