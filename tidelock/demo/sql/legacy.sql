-- The legacy application: nobody may install triggers or replication. Its owner allows a customised view that is read by
-- last-modified time; its user list has no such column and is compared as a whole.

create table people (
    person_no  integer primary key,
    full_name  text,
    mail       text,
    phone      text,
    land       text,
    born       text,
    stat       integer not null default 1,
    archived   boolean not null default false,
    changed_at timestamptz not null default clock_timestamp()
);

create table firms (
    firm_no    serial primary key,
    customer   text not null unique,
    firm       text,
    land       text,
    closed     boolean not null default false,
    changed_at timestamptz not null default clock_timestamp()
);

create table logins (
    login text primary key,
    name  text,
    mail  text,
    level integer
);

create function touch() returns trigger language plpgsql as $$
begin
    new.changed_at := clock_timestamp();
    return new;
end $$;

create trigger touched before insert or update on people for each row execute function touch();
create trigger touched before insert or update on firms for each row execute function touch();

create view v_people as
select person_no, full_name, mail, phone, land, born, stat, changed_at from people where not archived;

create view v_firms as
select firm_no, customer, firm, land, closed, changed_at from firms;

create schema canon;

create function canon.country(written text) returns text language sql immutable as $$
    select case lower(trim(written))
        when 'united states' then 'USA' when 'usa' then 'USA' when 'us' then 'USA'
        when 'germany' then 'DEU' when 'deutschland' then 'DEU' when 'united kingdom' then 'GBR' when 'uk' then 'GBR' when 'great britain' then 'GBR'
        when 'france' then 'FRA'
        when 'canada' then 'CAN' when 'spain' then 'ESP' when 'españa' then 'ESP' when 'italy' then 'ITA' when 'japan' then 'JPN' else '?' || written end
$$;

create view canon.contact as
select person_no::text as key, lower(trim(mail)) as email, nullif(split_part(full_name, ', ', 2), '') as first_name,
       split_part(full_name, ', ', 1) as last_name, canon.country(land) as country
from v_people;

create view canon.account as
select firm_no::text as key, customer as number, firm as name, canon.country(land) as country, closed::text as closed
from firms;

create view canon.user as
select login as key, login, name, lower(mail) as email, case level when 1 then 'admin' else 'member' end as role
from logins;
