-- The bookshop before its first migration.
CREATE TABLE publishers (name text PRIMARY KEY);
CREATE TABLE books (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    title text NOT NULL,
    author text NOT NULL,
    price integer NOT NULL,
    publisher text NOT NULL DEFAULT 'Analytical Press',
    sold integer NOT NULL DEFAULT 0,
    shelf text
);
CREATE INDEX books_title ON books (title);
INSERT INTO publishers VALUES ('Analytical Press'), ('Enigma House');
