// A stand-in for a card: the device PrivateUse1, whose memory is the host's and whose kernels are the CPU's.
//
// What it is for: it refuses what a card refuses (numpy() of its tensors, tensors of two devices in one operation), and
// it counts the bytes in use. Loaded as a plain library (no Python.h), so that one build serves every Python.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorShape.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

#include <atomic>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr auto kCard = c10::DeviceType::PrivateUse1;
const c10::Device card_device(kCard, 0);

// ---- memory, counted

std::atomic<size_t> bytes_in_use{0};  // autograd frees from a thread of its own
std::atomic<size_t> bytes_at_peak{0};
std::atomic<size_t> bytes_there_are{0};  // 0: no limit

struct Block {
  void* data;
  size_t size;
};

void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  bytes_in_use -= block->size;
  c10::free_cpu(block->data);
  delete block;
}

struct CardAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    const size_t limit = bytes_there_are;
    TORCH_CHECK_WITH(OutOfMemoryError, limit == 0 || bytes_in_use + size <= limit,
                     "card out of memory. Tried to allocate ", size, " bytes.");
    auto* block = new Block{c10::alloc_cpu(size), size};
    const size_t now = bytes_in_use += size;
    size_t peak = bytes_at_peak;
    while (peak < now && !bytes_at_peak.compare_exchange_weak(peak, now)) {
    }
    return {block->data, block, &free_block, card_device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t n) const override { default_copy_data(to, from, n); }
};
CardAllocator allocator;

void grow(const c10::Storage& storage, size_t bytes) {
  auto larger = allocator.allocate(bytes);
  std::memcpy(larger.get(), storage.data(), std::min(bytes, storage.nbytes()));
  storage.set_data_ptr(std::move(larger));
  storage.set_nbytes(bytes);
}

// ---- what torch asks of a device: one card, one stream, which never waits

struct CardGuard final : c10::impl::DeviceGuardImplInterface {
  CardGuard() = default;
  explicit CardGuard(c10::DeviceType) {}
  c10::DeviceType type() const override { return kCard; }
  c10::Device exchangeDevice(c10::Device) const override { return card_device; }
  c10::Device getDevice() const override { return card_device; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device d) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, d); }
  c10::Stream getDefaultStream(c10::Device d) const override { return c10::Stream(c10::Stream::DEFAULT, d); }
  c10::Stream exchangeStream(c10::Stream s) const noexcept override { return s; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
};

struct CardHooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isAvailable() const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::detail::createCPUGenerator(); }
  c10::Device getDeviceFromPtr(void*) const override { return card_device; }
  bool isPinnedPtr(const void*) const override { return false; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::DeviceType::CPU); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override { grow(storage, bytes); }
};

const bool hooks_registered = [] {
  at::RegisterPrivateUse1HooksInterface(new CardHooks());
  return true;
}();

// ---- operations: tensors are made here and views stay here; all else is the CPU's, on a copy (cpu_fallback)

at::Tensor empty(
    at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>,
    std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(size, &allocator, keys, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device>, std::optional<bool>) {
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(size, stride, &allocator, keys, c10::dtype_or_default(dtype));
}

at::Tensor on_host(const at::Tensor& t) {  // the same memory, as the CPU's kernels want it
  if (t.device().is_cpu()) return t;
  return at::from_blob(t.data_ptr(), t.sizes(), t.strides(), t.options().device(at::kCPU).requires_grad(false));
}

at::Tensor on_card(const at::Tensor& t) { return t.defined() ? t.to(card_device) : t; }

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool) {
  on_host(to).copy_(on_host(self));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  to.resize_(self.sizes());
  return copy_from(self, to, false);
}

at::Scalar local_scalar(const at::Tensor& t) { return on_host(t).item(); }

const at::Tensor& resize(const at::Tensor& self, at::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  // strides of the same size stay: cpu_fallback writes each result of an operation in place through here
  if (self.sizes() == size && !format.has_value()) return self;
  auto* impl = self.unsafeGetTensorImpl();
  at::detail::check_size_nonnegative(size);
  impl->set_sizes_contiguous(size);
  if (format.has_value() && *format != at::MemoryFormat::Preserve) impl->empty_tensor_restride(*format);
  const size_t bytes = at::detail::computeStorageNbytes(
      impl->sizes(), impl->strides(), self.element_size(), impl->storage_offset());
  if (self.storage().nbytes() < bytes) grow(self.storage(), bytes);
  return self;
}

at::Tensor& set_storage(
    at::Tensor& self, at::Storage storage, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(storage);
  self.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return self;
}

at::Tensor& set_whole_storage(at::Tensor& self, at::Storage storage) {
  const int64_t count = storage.nbytes() / self.element_size();
  return set_storage(self, storage, 0, {count}, {1});
}

void check_same_device(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK(
      a.device() == b.device(), "Expected all tensors to be on the same device, but found at least two devices, ",
      a.device(), " and ", b.device(), "!");
}

at::Tensor convolution(
    const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding,
    int64_t groups) {
  check_same_device(x, weight);
  std::optional<at::Tensor> host_bias;
  if (bias.has_value() && bias->defined()) {
    check_same_device(x, *bias);
    host_bias = on_host(*bias);
  }
  return on_card(at::convolution(
      on_host(x), on_host(weight), host_bias, stride, padding, dilation, transposed, output_padding, groups));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& weight, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding, int64_t groups,
    std::array<bool, 3> mask) {
  check_same_device(x, weight);
  check_same_device(x, gradient);
  const std::vector<int64_t> bias_size{transposed ? weight.size(1) * groups : weight.size(0)};
  const auto gradients = at::convolution_backward(
      on_host(gradient), on_host(x), on_host(weight), at::OptionalIntArrayRef(bias_size), stride, padding, dilation,
      transposed, output_padding, groups, mask);
  return {on_card(std::get<0>(gradients)), on_card(std::get<1>(gradients)), on_card(std::get<2>(gradients))};
}

// cpu_fallback itself would take tensors from wherever they lie. A card takes the host's only as a number (no axes), and
// as the places of an index.
void check_one_device(const c10::OperatorHandle& operation, const torch::jit::Stack& stack) {
  const auto& name = operation.schema().name();
  const bool by_places = name == "aten::index" || name.find("index_put") != std::string::npos;
  const auto arguments = torch::jit::last(stack, operation.schema().arguments().size());
  std::vector<at::Tensor> tensors;
  for (const auto& argument : arguments) {
    if (argument.isTensor()) tensors.push_back(argument.toTensor());
    if (argument.isTensorList())
      for (const at::Tensor& tensor : argument.toTensorVector()) tensors.push_back(tensor);
  }
  for (const auto& tensor : tensors) {
    if (!tensor.defined() || tensor.dim() == 0 || by_places) continue;
    TORCH_CHECK(
        tensor.device() == card_device, "Expected all tensors to be on the same device, but found at least two devices, ",
        card_device, " and ", tensor.device(), "! (", name, ")");
  }
}

void fallback(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  check_one_device(operation, *stack);
  at::native::cpu_fallback(operation, stack);
}

}  // namespace

namespace c10 {
REGISTER_ALLOCATOR(kCard, &allocator);
}
namespace at {
namespace {
C10_REGISTER_GUARD_IMPL(PrivateUse1, CardGuard);
}
}  // namespace at

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", local_scalar);
  m.impl("resize_", resize);
  m.impl("set_.source_Storage_storage_offset", set_storage);
  m.impl("set_.source_Storage", set_whole_storage);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("unfold", at::native::unfold);
  for (auto name : {"native_group_norm", "native_layer_norm"})  // their composites would ask for views
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  KERNEL_PRIVATEUSEONE(conv1d, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(conv2d, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(conv3d, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(conv_transpose2d, input, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(conv_transpose3d, input, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(bmm, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(mm, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(addmm, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(baddbmm, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(linear, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(matmul, lower_precision_fp)
}

// ---- for Python, by ctypes

extern "C" {
size_t card_bytes_in_use() { return bytes_in_use; }
size_t card_bytes_at_peak() { return bytes_at_peak; }
void card_reset_peak() { bytes_at_peak = bytes_in_use.load(); }
void card_limit(size_t bytes) { bytes_there_are = bytes; }
}
