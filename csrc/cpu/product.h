// The one product kernel: C (rows, columns) = start + A B, with B's and C's columns side by side in memory.
//
// Forward, backward and weight gradient are all this product with other strides of A. Every element of C is
// summed over `depth` in order, by one accumulator, so its value depends neither on the tile nor on threads.
#pragma once

#include "../kernels/config.h"

namespace popgrad::POPGRAD_TARGET {

template <size_t...>
struct Lanes {};
template <int count, size_t... lane>
struct CountLanes : CountLanes<count - 1, size_t(count - 1), lane...> {};
template <size_t... lane>
struct CountLanes<0, lane...> {
  using Type = Lanes<lane...>;
};
template <int count>
using FirstLanes = typename CountLanes<count>::Type;

template <class T>
struct Vectors {
  static constexpr int width = POPGRAD_VECTOR_BYTES / sizeof(T);
  typedef T Vec __attribute__((vector_size(POPGRAD_VECTOR_BYTES)));
  typedef T Loose __attribute__((vector_size(POPGRAD_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  static POPGRAD_HD Vec load(const T* p) { return *reinterpret_cast<const Loose*>(p); }
  static POPGRAD_HD void store(T* p, Vec v) { *reinterpret_cast<Loose*>(p) = v; }
  static POPGRAD_HD Vec splat(T x) { return x - Vec{}; }  // exact for every x, and compilers drop the zero
  static POPGRAD_HD Vec load_some(const T* p, int64_t count) {
    alignas(POPGRAD_VECTOR_BYTES) T edge[width] = {};
    for (int64_t i = 0; i < count; ++i) edge[i] = p[i];
    return load(edge);
  }
  static POPGRAD_HD void store_some(T* p, Vec v, int64_t count) {
    alignas(POPGRAD_VECTOR_BYTES) T edge[width];
    store(edge, v);
    for (int64_t i = 0; i < count; ++i) p[i] = edge[i];
  }
};

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define POPGRAD_SHUFFLES
#endif
#endif

// Exchanges, in pairs of vectors `distance` apart, the halves of every 2 * distance lanes that are off the diagonal.
// Repeated for every power of two below the width, it transposes a square of vectors.
template <class T, int distance, size_t... lane>
POPGRAD_HD void exchange(typename Vectors<T>::Vec& low, typename Vectors<T>::Vec& high, Lanes<lane...>) {
  constexpr int width = Vectors<T>::width;
  const typename Vectors<T>::Vec a = low, b = high;
#ifdef POPGRAD_SHUFFLES
  low = __builtin_shufflevector(a, b, (int(lane) & distance ? width + (int(lane) ^ distance) : int(lane))...);
  high = __builtin_shufflevector(a, b, (int(lane) & distance ? width + int(lane) : (int(lane) ^ distance))...);
#else
  ((low[lane] = int(lane) & distance ? b[int(lane) ^ distance] : a[lane],
    high[lane] = int(lane) & distance ? b[lane] : a[int(lane) ^ distance]),
   ...);
#endif
}

template <class T, int distance>
POPGRAD_HD void exchange_all(typename Vectors<T>::Vec* row) {
  constexpr int width = Vectors<T>::width;
  if constexpr (distance < width) {
#pragma GCC unroll 16
    for (int r = 0; r < width; ++r)
      if (!(r & distance)) exchange<T, distance>(row[r], row[r + distance], FirstLanes<width>());
    exchange_all<T, 2 * distance>(row);
  }
}

// A square of as many numbers as a vector has lanes: to[c * to_stride + r] = from[r * from_stride + c].
template <class T>
POPGRAD_HD void transpose_tile(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
  using V = Vectors<T>;
  typename V::Vec row[V::width];
#pragma GCC unroll 16
  for (int r = 0; r < V::width; ++r) row[r] = V::load(from + r * from_stride);
  exchange_all<T, 1>(row);
#pragma GCC unroll 16
  for (int r = 0; r < V::width; ++r) V::store(to + r * to_stride, row[r]);
}

// The kind of the factors: here numbers of the type of the sums; other kinds define another `add`.
template <class T>
struct Numbers {
  using In = T;
  static POPGRAD_HD typename Vectors<T>::Vec add(typename Vectors<T>::Vec sum, T left, typename Vectors<T>::Vec right) {
    return sum + left * right;
  }
};

template <class T, class Kind = Numbers<T>>
struct Product {
  using In = typename Kind::In;
  const In* A;
  int64_t row_stride, depth_stride;  // A(r, k) = A[r * row_stride + k * depth_stride]
  const In* B;
  int64_t b_stride;  // B(k, j) = B[k * b_stride + j]; rows padded to whole vectors
  T* C;
  int64_t c_stride;
  const T* start;  // one value per row of C; null: what C holds (add), or zero
  bool add;
  int64_t rows, depth, columns;
};

template <class T, class Kind, int R, int C>
POPGRAD_HD void product_tile(const Product<T, Kind>& p, int64_t r0, int64_t j) {
  using In = Vectors<typename Kind::In>;
  using V = Vectors<T>;
  typename V::Vec sum[R][C];
  T* const to = p.C + r0 * p.c_stride + j;
  // The last vector may be partial: B is padded, C is not.
  const bool whole = j + C * V::width <= p.columns;
  if (p.start) {
    for (int r = 0; r < R; ++r) {
      const typename V::Vec start = V::splat(p.start[r0 + r]);
      for (int c = 0; c < C; ++c) sum[r][c] = start;
    }
  } else if (!p.add) {
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) sum[r][c] = typename V::Vec{};
  } else {
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) {
        const T* const at = to + r * p.c_stride + c * V::width;
        sum[r][c] = whole ? V::load(at) : V::load_some(at, p.columns - j);
      }
  }
  const typename Kind::In* a = p.A + r0 * p.row_stride;
  const typename Kind::In* b = p.B + j;
  for (int64_t k = 0; k < p.depth; ++k) {
    typename In::Vec right[C];
    for (int c = 0; c < C; ++c) right[c] = In::load(b + c * In::width);
    for (int r = 0; r < R; ++r) {
      const typename Kind::In left = a[r * p.row_stride];
      for (int c = 0; c < C; ++c) sum[r][c] = Kind::add(sum[r][c], left, right[c]);
    }
    a += p.depth_stride;
    b += p.b_stride;
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) {
      T* const at = to + r * p.c_stride + c * V::width;
      if (whole)
        V::store(at, sum[r][c]);
      else
        V::store_some(at, sum[r][c], p.columns - j);
    }
}

template <class T, class Kind, int R>
POPGRAD_HD void product_rows(const Product<T, Kind>& p, int64_t r0) {
  constexpr int C = POPGRAD_TILE_VECTORS, width = Vectors<T>::width;
  int64_t j = 0;
  for (; j + C * width <= p.columns; j += C * width) product_tile<T, Kind, R, C>(p, r0, j);
  for (; j < p.columns; j += width) product_tile<T, Kind, R, 1>(p, r0, j);
}

template <class T, class Kind, int R>
POPGRAD_HD void product_height(const Product<T, Kind>& p, int64_t r0, int64_t rows) {
  if constexpr (R > 0) {
    if (rows == R)
      product_rows<T, Kind, R>(p, r0);
    else
      product_height<T, Kind, R - 1>(p, r0, rows);
  }
}

template <class T, class Kind>
void product_section(const Product<T, Kind>& p) {
  // The tiles have nearly the same height, because a low tile waits for its loads.
  const int64_t tiles = (p.rows + POPGRAD_TILE_ROWS - 1) / POPGRAD_TILE_ROWS;
  for (int64_t t = 0, r = 0; t < tiles; ++t) {
    const int64_t rows = (p.rows - r) / (tiles - t);
    product_height<T, Kind, POPGRAD_TILE_ROWS>(p, r, rows);
    r += rows;
  }
}

template <class T, class Kind>
void product(const Product<T, Kind>& p) {
  // A section of B stays in the second-level cache while the rows of A pass by.
  constexpr int64_t section = 512;
  if (p.depth <= section) {
    product_section(p);
    return;
  }
  Product<T, Kind> part = p;
  for (int64_t k = 0; k < p.depth; k += section) {
    part.depth = p.depth - k < section ? p.depth - k : section;
    product_section(part);
    part.A += section * p.depth_stride;
    part.B += section * p.b_stride;
    part.start = nullptr;
    part.add = true;
  }
}

}  // namespace popgrad::POPGRAD_TARGET
