pub mod track;
