// PCI and PCI Express configuration numbers for the guest's enumerator, typed from PCI 3.0, PCI-to-PCI Bridge 1.2 and PCIe 4.0 independently of
// src/pci. Only what a guest's firmware and drivers touch.

/** Common header, type 0 and type 1. */
export const CFG = {
  VENDOR_ID: 0x00,
  DEVICE_ID: 0x02,
  COMMAND: 0x04,
  STATUS: 0x06,
  REVISION: 0x08,
  HEADER_TYPE: 0x0e,
  BAR0: 0x10,
  CAPABILITIES: 0x34,
  INTERRUPT_LINE: 0x3c,
  INTERRUPT_PIN: 0x3d,
  PRIMARY_BUS: 0x18,
  SECONDARY_BUS: 0x19,
  SUBORDINATE_BUS: 0x1a,
  IO_BASE: 0x1c,
  IO_LIMIT: 0x1d,
  MEMORY_BASE: 0x20,
  MEMORY_LIMIT: 0x22,
  PREFETCH_BASE: 0x24,
  PREFETCH_LIMIT: 0x26,
  PREFETCH_BASE_UPPER: 0x28,
  PREFETCH_LIMIT_UPPER: 0x2c,
  IO_BASE_UPPER: 0x30,
  IO_LIMIT_UPPER: 0x32,
} as const;

export const COMMAND_IO = 1;
export const COMMAND_MEMORY = 2;
export const COMMAND_MASTER = 4;
export const COMMAND_INTX_DISABLE = 0x400;
export const STATUS_CAPABILITIES = 0x10;
export const HEADER_MULTIFUNCTION = 0x80;

/** Capability identifiers. */
export const CAP_MSI = 0x05;
export const CAP_VENDOR = 0x09;
export const CAP_PCIE = 0x10;
export const CAP_MSIX = 0x11;
/** Extended capability identifiers. */
export const EXT_CAP_ARI = 0x000e;
export const EXT_CAP_SRIOV = 0x0010;

/** PCI Express capability: the flags register's device/port type field and the registers ARI needs. */
export const PCIE_FLAGS = 2;
export const PCIE_DEVICE_CAPABILITIES_2 = 0x24;
export const PCIE_DEVICE_CONTROL_2 = 0x28;
export const PCIE_ARI_FORWARDING = 0x20;
export const PCIE_TYPE_ROOT_PORT = 4;
export const PCIE_TYPE_DOWNSTREAM = 6;

/** SR-IOV extended capability. */
export const SRIOV = {
  CONTROL: 0x08,
  INITIAL_VFS: 0x0c,
  TOTAL_VFS: 0x0e,
  NUM_VFS: 0x10,
  FIRST_VF_OFFSET: 0x14,
  VF_STRIDE: 0x16,
  VF_DEVICE_ID: 0x1a,
  SUPPORTED_PAGE_SIZES: 0x1c,
  SYSTEM_PAGE_SIZE: 0x20,
  VF_BAR0: 0x24,
} as const;
export const SRIOV_VF_ENABLE = 1;
export const SRIOV_VF_MEMORY_ENABLE = 8;
export const SRIOV_ARI_HIERARCHY = 0x10;
/** How long software leaves new VFs alone after setting VF Enable (SR-IOV 1.1 2.1.1), and any function after reset: 100 ms. */
export const VF_ENABLE_WAIT_NANOS = 100_000_000;

/** MSI capability; the data lies behind the address. */
export const MSI_CONTROL = 2;
export const MSI_ADDRESS = 4;
export const MSI_ENABLE = 0x0001;
export const MSI_MULTIPLE = 0x0070;
export const MSI_64_BIT = 0x0080;
/** MSI-X capability and table entry. */
export const MSIX_CONTROL = 2;
export const MSIX_TABLE = 4;
export const MSIX_ENABLE = 0x8000;
export const MSIX_FUNCTION_MASK = 0x4000;
export const MSIX_ENTRY_SIZE = 16;
