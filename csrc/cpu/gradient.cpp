// Gradients with products in the type of the parameters; pass.h has the stages. Compiled once per instruction set, with
// contraction. No standard headers with inline bodies here, see csrc/README.md.
#include "pass.h"
#include "tables.h"

namespace popgrad::POPGRAD_TARGET {
namespace {

template <class T>
class PlainPass : public Pass<T, PlainPass<T>> {
  using Base = Pass<T, PlainPass<T>>;
  friend Base;

 public:
  using Base::Base;

  static size_t scratch(const Shape& shape) {
    int64_t most = 0;
    for (int l = 1; l < shape.count; ++l) {
      const int64_t size = Dense<T>{shape.layers[l]}.panel_size(unit_group);
      most = most < size ? size : most;
    }
    return size_t(most);
  }

 private:
  // Rows: inputs of a layer sample by sample, as its weight gradient needs them.
  static int64_t input_size(int64_t inputs) { return inputs + row_stride<T>(inputs); }
  static int64_t output_size(int64_t outputs) { return row_stride<T>(outputs); }
  static int64_t weight_size(const Shape&) { return 0; }
  static int64_t weight_items(const Shape&) { return 0; }
  void prepare(int64_t) {}

  T* columns(int64_t block) const { return this->inputs_ + block * block_samples * this->args_.batch.inputs; }
  // The inputs of layer l of one block.
  T* rows(int l, int64_t block) const {
    const int64_t inputs = this->shape_.layers[l].inputs;
    T* const all = l > 0 ? this->arrays(l - 1, block).factors : this->inputs_ + this->lanes() * inputs;
    return all + block * block_samples * row_stride<T>(inputs);
  }

  T* row_memory(int64_t block, T*) const { return rows(0, block); }
  void pack_inputs(int64_t block, const T* rows) const {
    const int64_t inputs = this->args_.batch.inputs;
    const auto [count, lanes] = this->samples(block);
    T* const to = columns(block);
    transpose(rows, row_stride<T>(inputs), count, inputs, to, lanes);
    for (int64_t i = 0; count < lanes && i < inputs; ++i)
      for (int64_t s = count; s < lanes; ++s) to[i * lanes + s] = T(0);
  }

  void affine(int l, int64_t block, Range units, T* z) const {
    const T* const x = l > 0 ? this->arrays(l - 1, block).tape.out : columns(block);
    dense(l).affine(this->args_.w + this->parameters_before(l), x, this->samples(block).lanes, units, z);
  }

  void pass_on(int l, int64_t block, Range units) const {
    const auto [count, lanes] = this->samples(block);
    const int64_t outputs = this->shape_.layers[l].outputs, stride = row_stride<T>(outputs);
    T* const to = rows(l + 1, block);
    transpose(this->arrays(l, block).tape.out + units.begin * lanes, lanes, units.count(), count, to + units.begin,
              stride);
    for (int64_t s = 0; units.end == outputs && s < count; ++s)
      for (int64_t i = outputs; i < stride; ++i) to[s * stride + i] = T(0);
  }

  void derived(int, int64_t, Range) const {}

  void weights_product(int l, Range outputs, Range columns) const {
    for (int64_t b = 0; b < this->blocks_; ++b)
      dense(l).by_weights(this->arrays(l, b).delta, rows(l, b), this->samples(b), outputs, columns,
                          this->args_.add || b > 0, this->args_.gradient + this->parameters_before(l));
  }

  auto panel(int l, Range units, T* scratch) const {
    return dense(l).columns(this->args_.w + this->parameters_before(l), units, scratch);
  }
  void inputs_product(const typename Dense<T>::Columns& panel, int l, int64_t block, Range units, T* next) const {
    dense(l).by_inputs(panel, this->arrays(l, block).delta, this->samples(block).lanes, units, next);
  }

  Dense<T> dense(int l) const { return {this->shape_.layers[l]}; }
};

}  // namespace

extern constinit const GradientFns<float> gradient_f32 = pass_fns<float, PlainPass<float>>;
extern constinit const GradientFns<double> gradient_f64 = pass_fns<double, PlainPass<double>>;

}  // namespace popgrad::POPGRAD_TARGET
