//! libbpf and the `bpf(2)` system call, as safe functions.
//!
//! Called by the management thread only.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Mutex, Once};

use anyhow::{Context, bail, ensure};
use libbpf_sys as sys;

/// libbpf's warnings since the last [`Object::open`]; the verifier's verdict is among them.
static MESSAGES: Mutex<String> = Mutex::new(String::new());
/// Bytes of messages after which no more are kept.
const MESSAGES_MAX: usize = 4 << 10;
/// Lines kept of one message.
const LINES_MAX: usize = 12;

unsafe extern "C" {
    fn vsnprintf(to: *mut c_char, size: usize, format: *const c_char, args: *mut c_void) -> c_int;
}

unsafe extern "C" fn keep_message(
    level: sys::libbpf_print_level,
    format: *const c_char,
    args: *mut sys::__va_list_tag,
) -> c_int {
    if level != sys::LIBBPF_WARN {
        return 0;
    }
    // The verifier's log comes in one piece; what matters stands at its end.
    let mut line = vec![0_u8; 1 << 20];
    // SAFETY: libbpf hands over a format and its arguments; the result is cut to the buffer.
    unsafe { vsnprintf(line.as_mut_ptr().cast(), line.len(), format, args.cast()) };
    let text = CStr::from_bytes_until_nul(&line).map(CStr::to_string_lossy).unwrap_or_default();
    let tail: Vec<&str> = text.lines().rev().take(LINES_MAX).collect();
    if let Ok(mut messages) = MESSAGES.lock()
        && messages.len() < MESSAGES_MAX
    {
        for line in tail.iter().rev() {
            messages.push_str(line);
            messages.push('\n');
        }
    }
    0
}

fn done(result: c_int) -> io::Result<c_int> {
    if result >= 0 { Ok(result) } else { Err(io::Error::from_raw_os_error(-result)) }
}

fn owned(fd: c_int) -> io::Result<OwnedFd> {
    let fd: RawFd = done(fd)?;
    // SAFETY: the kernel has just made it, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Type and sizes of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    kind: u32,
    /// Bytes of a key.
    pub(super) key: usize,
    /// Bytes of a value.
    pub(super) value: usize,
    /// Most entries.
    pub(super) entries: usize,
}

/// A compiled program with its maps, before and after loading.
pub(super) struct Object(NonNull<sys::bpf_object>);

impl Object {
    /// Reads an ELF file; the kernel knows nothing of it yet.
    pub(super) fn open(elf: &[u8]) -> anyhow::Result<Self> {
        static QUIET: Once = Once::new();
        QUIET.call_once(|| {
            // SAFETY: `keep_message` may be called from any thread at any time.
            unsafe { sys::libbpf_set_print(Some(keep_message)) };
        });
        if let Ok(mut messages) = MESSAGES.lock() {
            messages.clear();
        }
        let size = elf.len() as sys::size_t;
        // SAFETY: `elf` is `size` readable bytes; libbpf copies them.
        let object =
            unsafe { sys::bpf_object__open_mem(elf.as_ptr().cast(), size, std::ptr::null()) };
        NonNull::new(object).map(Self).ok_or_else(|| failure(io::Error::last_os_error()))
    }

    fn map(&self, name: &CStr) -> anyhow::Result<*mut sys::bpf_map> {
        // SAFETY: the object is open until `self` is dropped, and `name` is a C string.
        let map = unsafe { sys::bpf_object__find_map_by_name(self.0.as_ptr(), name.as_ptr()) };
        ensure!(!map.is_null(), "the steering program has no map {name:?}");
        Ok(map)
    }

    /// Type and sizes of a map.
    pub(super) fn shape(&self, name: &CStr) -> anyhow::Result<Shape> {
        let map = self.map(name)?;
        // SAFETY: a map of an open object, as everywhere below.
        unsafe {
            Ok(Shape {
                kind: sys::bpf_map__type(map),
                key: sys::bpf_map__key_size(map) as usize,
                value: sys::bpf_map__value_size(map) as usize,
                entries: sys::bpf_map__max_entries(map) as usize,
            })
        }
    }

    /// Makes the program use an existing map; libbpf keeps a duplicate of the descriptor.
    pub(super) fn reuse(&mut self, name: &CStr, fd: BorrowedFd<'_>) -> anyhow::Result<()> {
        let map = self.map(name)?;
        // SAFETY: as in `shape`; the descriptor is open.
        done(unsafe { sys::bpf_map__reuse_fd(map, fd.as_raw_fd()) })?;
        Ok(())
    }

    /// Creates the maps and loads the program.
    pub(super) fn load(&mut self) -> anyhow::Result<()> {
        // SAFETY: an open object.
        done(unsafe { sys::bpf_object__load(self.0.as_ptr()) }).map(drop).map_err(failure)
    }

    /// A loaded map.
    pub(super) fn map_fd(&self, name: &CStr) -> anyhow::Result<OwnedFd> {
        let map = self.map(name)?;
        // SAFETY: as in `shape`.
        let fd = done(unsafe { sys::bpf_map__fd(map) })?;
        // SAFETY: open as long as the object, so for the length of the call.
        Ok(unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?)
    }

    /// The loaded program.
    pub(super) fn program_fd(&self, name: &CStr) -> anyhow::Result<OwnedFd> {
        // SAFETY: an open object and a C string.
        let found = unsafe {
            let object = self.0.as_ptr();
            NonNull::new(sys::bpf_object__find_program_by_name(object, name.as_ptr()))
        };
        let Some(program) = found else { bail!("no program {name:?}") };
        // SAFETY: a program of an open object.
        let fd = done(unsafe { sys::bpf_program__fd(program.as_ptr()) })?;
        // SAFETY: open as long as the object, so for the length of the call.
        Ok(unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: opened by us, closed once; the descriptors given out are duplicates.
        unsafe { sys::bpf_object__close(self.0.as_ptr()) };
    }
}

fn failure(error: io::Error) -> anyhow::Error {
    let said = MESSAGES.lock().map(|m| m.trim_end().to_owned()).unwrap_or_default();
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => "; it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
        _ => "",
    };
    anyhow::Error::new(error).context(format!("the kernel refused the program{hint}\n{said}"))
}

/// Gives an object a name in a BPF file system.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> anyhow::Result<()> {
    let name = c_path(path)?;
    // SAFETY: an open descriptor and a C string.
    done(unsafe { sys::bpf_obj_pin(fd.as_raw_fd(), name.as_ptr()) })
        .map(drop)
        .with_context(|| format!("pinning {}", path.display()))
}

/// A pinned object; `None` if there is none of this name.
pub(super) fn pinned(path: &Path) -> anyhow::Result<Option<OwnedFd>> {
    let name = c_path(path)?;
    // SAFETY: a C string.
    match owned(unsafe { sys::bpf_obj_get(name.as_ptr()) }) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("opening {}", path.display())),
    }
}

/// A map of known shape.
pub(super) struct Map {
    fd: OwnedFd,
    shape: Shape,
}

impl Map {
    /// Asks the kernel for the shape.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let mut info = sys::bpf_map_info::default();
        let mut size = size_of_val(&info) as u32;
        // SAFETY: `info` has `size` writable bytes.
        done(unsafe { sys::bpf_map_get_info_by_fd(fd.as_raw_fd(), &raw mut info, &raw mut size) })?;
        let shape = Shape {
            kind: info.type_,
            key: info.key_size as usize,
            value: info.value_size as usize,
            entries: info.max_entries as usize,
        };
        Ok(Self { fd, shape })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// Inserts or replaces.
    pub(super) fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert!(key.len() == self.shape.key && value.len() == self.shape.value);
        let (key, value) = (key.as_ptr().cast(), value.as_ptr().cast());
        // SAFETY: the kernel reads as many bytes as the shape says, which is what they have.
        done(unsafe { sys::bpf_map_update_elem(self.fd.as_raw_fd(), key, value, 0) }).map(drop)
    }

    /// Removes; nothing happens if it is not there.
    pub(super) fn remove(&self, key: &[u8]) -> io::Result<()> {
        assert!(key.len() == self.shape.key);
        // SAFETY: as in `set`.
        match done(unsafe { sys::bpf_map_delete_elem(self.fd.as_raw_fd(), key.as_ptr().cast()) }) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The value; one for each possible CPU, each padded to 8 bytes, of a map that is per CPU.
    pub(super) fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        assert!(key.len() == self.shape.key);
        let mut len = self.shape.value;
        if self.shape.kind == sys::BPF_MAP_TYPE_PERCPU_ARRAY {
            // SAFETY: takes nothing, reads a file.
            let cpus = done(unsafe { sys::libbpf_num_possible_cpus() })?;
            len = len.next_multiple_of(8) * cpus as usize;
        }
        let mut value = vec![0; len];
        let to = value.as_mut_ptr().cast();
        // SAFETY: the kernel writes as many bytes as the shape (and the CPUs) say: `len`.
        match done(unsafe {
            sys::bpf_map_lookup_elem(self.fd.as_raw_fd(), key.as_ptr().cast(), to)
        }) {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The key after `last`, or the first; none at the end. Begins anew if `last` is gone.
    pub(super) fn next_key(&self, last: Option<&[u8]>) -> io::Result<Option<Vec<u8>>> {
        assert!(last.is_none_or(|key| key.len() == self.shape.key));
        let last = last.map_or(std::ptr::null(), |key| key.as_ptr());
        let mut next = vec![0; self.shape.key];
        let to = next.as_mut_ptr().cast();
        // SAFETY: both have as many bytes as the shape says; null asks for the first key.
        match done(unsafe { sys::bpf_map_get_next_key(self.fd.as_raw_fd(), last.cast(), to) }) {
            Ok(_) => Ok(Some(next)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every key. Ends after twice the capacity, should somebody else change the map meanwhile.
    pub(super) fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        while keys.len() < 2 * self.shape.entries {
            match self.next_key(keys.last().map(Vec::as_slice))? {
                Some(key) => keys.push(key),
                None => break,
            }
        }
        Ok(keys)
    }
}

/// The kernel's number of a program.
pub(super) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = sys::bpf_prog_info::default();
    let mut size = size_of_val(&info) as u32;
    let fd = program.as_raw_fd();
    // SAFETY: `info` has `size` writable bytes, and asks for no arrays (all pointers are null).
    done(unsafe { sys::bpf_prog_get_info_by_fd(fd, &raw mut info, &raw mut size) })?;
    Ok(info.id)
}

/// Where the program of an interface runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// In the driver.
    Native,
    /// On socket buffers.
    Generic,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// Attaches a program to an interface, as long as the result is open or pinned.
pub(super) fn link(program: BorrowedFd<'_>, ifindex: u32, mode: Mode) -> io::Result<OwnedFd> {
    let mut options = sys::bpf_link_create_opts {
        sz: size_of::<sys::bpf_link_create_opts>() as sys::size_t,
        ..Default::default()
    };
    options.flags = match mode {
        Mode::Native => sys::XDP_FLAGS_DRV_MODE,
        Mode::Generic => sys::XDP_FLAGS_SKB_MODE,
    };
    let (program, target) = (program.as_raw_fd(), ifindex as c_int);
    // SAFETY: `options` is initialised and says its size.
    owned(unsafe { sys::bpf_link_create(program, target, sys::BPF_XDP, &raw const options) })
}

/// Puts another program in the place of the attached one; no packet meets neither.
pub(super) fn relink(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (link, program) = (link.as_raw_fd(), program.as_raw_fd());
    // SAFETY: two descriptors; no options.
    done(unsafe { sys::bpf_link_update(link, program, std::ptr::null()) }).map(drop)
}

/// Detaches, whoever else may have the link open.
pub(super) fn unlink(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a descriptor.
    done(unsafe { sys::bpf_link_detach(link.as_raw_fd()) }).map(drop)
}

/// Interface (0 if it is gone) and program of a link.
pub(super) fn link_target(link: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let mut info = sys::bpf_link_info::default();
    let mut size = size_of_val(&info) as u32;
    // SAFETY: `info` has `size` writable bytes.
    done(unsafe { sys::bpf_link_get_info_by_fd(link.as_raw_fd(), &raw mut info, &raw mut size) })?;
    if info.type_ != sys::BPF_LINK_TYPE_XDP {
        return Ok((0, info.prog_id));
    }
    // SAFETY: the member that belongs to this type; any bytes are a valid number.
    Ok((unsafe { info.__bindgen_anon_1.xdp.ifindex }, info.prog_id))
}

/// The program on an interface: its number and mode; `None` if there is none.
pub(super) fn attached(ifindex: u32) -> io::Result<Option<(u32, Mode)>> {
    let mut options = sys::bpf_xdp_query_opts {
        // Up to here: more would make libbpf ask for features, over generic netlink.
        sz: offset_of!(sys::bpf_xdp_query_opts, feature_flags) as sys::size_t,
        ..Default::default()
    };
    // SAFETY: `options` is initialised and has at least the size it says.
    done(unsafe { sys::bpf_xdp_query(ifindex as c_int, 0, &raw mut options) })?;
    Ok(if options.drv_prog_id != 0 {
        Some((options.drv_prog_id, Mode::Native))
    } else if options.skb_prog_id != 0 {
        Some((options.skb_prog_id, Mode::Generic))
    } else if options.hw_prog_id != 0 {
        Some((options.hw_prog_id, Mode::Native))
    } else {
        (options.prog_id != 0).then_some((options.prog_id, Mode::Native))
    })
}

/// Runs an XDP program on a frame (`BPF_PROG_TEST_RUN`), as if received on the loopback. Returns
/// the XDP action.
pub(super) fn trial(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<u32> {
    let mut out = vec![0_u8; frame.len() + 256];
    let mut options = sys::bpf_test_run_opts {
        sz: size_of::<sys::bpf_test_run_opts>() as sys::size_t,
        data_in: frame.as_ptr().cast(),
        data_size_in: frame.len() as u32,
        data_out: out.as_mut_ptr().cast(),
        data_size_out: out.len() as u32,
        repeat: 1,
        ..Default::default()
    };
    // SAFETY: both buffers have the sizes given and outlive the call.
    done(unsafe { sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) })?;
    Ok(options.retval)
}
