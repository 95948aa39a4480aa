//! What the ports' contracts cannot reach: servers that die, lines that go dead, who may come in, how events are
//! numbered.

mod bench;
mod proxy;

mod needs_postgres {
    mod calls;
    mod failures;
    mod guard;
    mod numbering;
    mod opening;
    mod speaking;
    mod tls;
    mod walks;
    mod work;
}
