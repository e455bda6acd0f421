//! Functions of a vendor's libraries, looked up once, by prototypes of our own.

pub use libloading::Library;

/// A table of functions: the struct, and its constructor.
///
/// `table! { Calls { hipInit(c_uint) -> Code; } }`, documented as a struct is.
#[macro_export]
macro_rules! table {
    (
        $(#[$doc:meta])*
        $table:ident { $($name:ident($($argument:ty),*) -> $returns:ty;)* }
    ) => {
        $(#[$doc])*
        #[expect(non_snake_case, reason = "the vendor's names")]
        pub(crate) struct $table {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) -> $returns,)*
        }

        impl $table {
            /// The functions that these libraries have together; they must not be unloaded.
            ///
            /// # Errors
            /// The name of one that none of them has.
            pub(crate) fn new(libraries: &[&$crate::symbols::Library]) -> Result<Self, &'static str> {
                Ok(Self {
                    // SAFETY: the prototypes are those of the vendor's headers.
                    $($name: unsafe { $crate::symbols::symbol(libraries, stringify!($name)) }
                        .ok_or(stringify!($name))?,)*
                })
            }

            /// Names, and types as they are written here.
            #[cfg(test)]
            pub(crate) const PROTOTYPES: &[(&str, &[&str])] =
                &[$((stringify!($name), &[$(stringify!($argument)),*]),)*];
        }

        impl std::fmt::Debug for $table {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($table))
            }
        }
    };
}

/// A function, in the first library that has it.
///
/// # Safety
/// `F` is a pointer to functions of its type, and the library is not unloaded.
pub unsafe fn symbol<F: Copy>(libraries: &[&Library], name: &str) -> Option<F> {
    let found = libraries.iter().find_map(|library| {
        // SAFETY: the caller's promise.
        unsafe { library.get::<F>(name) }.ok()
    });
    found.map(|function| *function)
}
