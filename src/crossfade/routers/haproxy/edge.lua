-- What the edge does by itself: lets leases lapse, holds requests, and finds a server when a slot has none.
-- Loaded once (not per thread), so every function here runs under HAProxy's one Lua lock; none yields between
-- reading and writing, which makes each command of the control plane atomic.

local WEIGHTS, PREVIEWS, HOLDS, RELEASES = "weights.map", "previews.map", "holds.map", "releases.map"
local FAULTS = "faults.map"
local weights = Map.new(WEIGHTS, Map._str)
local previews = Map.new(PREVIEWS, Map._str)
local holds = Map.new(HOLDS, Map._str)
local releases = Map.new(RELEASES, Map._str)
local faults = Map.new(FAULTS, Map._str)
local leases = {} -- key -> { expires = epoch seconds, fallback = a split's code, lapsed = boolean }

local function now()
  local date = core.now()
  return date.sec + date.usec / 1000000
end

-- Leases stand as comments in the weights file, so that a split and its lease are one write on disk.
local file = io.open(WEIGHTS, "r")
if file then
  for line in file:lines() do
    local key, expires, fallback = line:match("^# lease (%S+) (%S+) (%d+)$")
    if key then
      leases[key] = { expires = tonumber(expires) or 0, fallback = fallback, lapsed = false }
    end
  end
  file:close()
end

local function lapse(key, lease)
  core.set_map(WEIGHTS, key, lease.fallback)
  lease.lapsed = true
end

local function sweep()
  for key, lease in pairs(leases) do
    if not lease.lapsed and lease.expires <= now() then
      lapse(key, lease)
    end
  end
end

core.register_init(function() pcall(sweep) end) -- a lease that ran out while the edge was down never takes effect

core.register_task(function()
  while true do
    pcall(sweep)
    core.msleep(250)
  end
end)

core.register_cli({ "crossfade", "split" }, "", function(applet, _, _, key, code, expires, fallback)
  if expires == "-" then
    leases[key] = nil
  else
    leases[key] = { expires = tonumber(expires), fallback = fallback, lapsed = false }
  end
  core.set_map(WEIGHTS, key, code)
  applet:send("done\n")
end)

core.register_cli({ "crossfade", "renew" }, "", function(applet, _, _, key, expires, fallback)
  local lease = leases[key]
  if lease and not lease.lapsed and lease.expires <= now() then
    lapse(key, lease)
  end
  if not lease then
    applet:send("none\n")
  elseif lease.lapsed then
    applet:send("lapsed\n")
  else
    lease.expires, lease.fallback = tonumber(expires), fallback
    applet:send("done\n")
  end
end)

core.register_cli({ "crossfade", "state" }, "", function(applet, _, _, key)
  local lease = leases[key]
  local word = "none"
  if lease then
    if not lease.lapsed and lease.expires <= now() then
      lapse(key, lease)
    end
    word = lease.lapsed and "lapsed" or "leased"
  end
  applet:send(string.format("%s %s\n", weights:lookup(key) or "-", word))
end)

core.register_cli({ "crossfade", "preview" }, "", function(applet, _, _, key, value)
  core.set_map(PREVIEWS, key, value)
  applet:send("done\n")
end)

core.register_cli({ "crossfade", "unpreview" }, "", function(applet, _, _, key)
  core.del_map(PREVIEWS, key)
  applet:send("done\n")
end)

core.register_cli({ "crossfade", "hold" }, "", function(applet, _, _, key, deadline)
  if deadline == "0" then
    core.del_map(HOLDS, key)
  else
    core.set_map(HOLDS, key, deadline)
  end
  applet:send("done\n")
end)

core.register_cli({ "crossfade", "fault" }, "", function(applet, _, _, place, fault)
  if fault == "-" then
    core.del_map(FAULTS, place)
  else
    core.set_map(FAULTS, place, fault)
  end
  applet:send("done\n")
end)

-- What a game day does to the requests of a slot: some of them wait, some get an answer that is none of the application's.
-- It ends by itself when its time is over, whoever notices first. Previews, the control plane's own questions, are spared.
core.register_action("disturb", { "http-req" }, function(txn, place)
  local ends, share, delay, status = (faults:lookup(place) or ""):match("^([%d.]+):(%d+):(%d+):(%d+)$")
  if not ends then
    return
  end
  if tonumber(ends) <= now() then
    core.del_map(FAULTS, place)
    return
  end
  if (txn:get_var("txn.slot") or "") ~= "" or math.random(10000) > tonumber(share) then
    return
  end
  if tonumber(delay) > 0 then
    core.msleep(tonumber(delay))
  end
  if tonumber(status) > 0 then
    txn:set_var("txn.own", true) -- counted as an application's error: that is what is rehearsed
    txn:set_var("txn.fault", tonumber(status))
  end
end, 1)

-- Business events that applications tell in a response header, summed by pool and name; "-" counts what was refused.
-- Another release in the pool may use other names: it has room for as many, while the sums go on. A name that a release
-- never used is forgotten when the next one comes.
local MOST_EVENTS, MOST_NAMES, LONGEST, LARGEST = 8, 50, 1024, 1e12
local tallies = {} -- pool -> { releases = how many, names = of this one, of = name -> { n, sum, sum of squares, release } }

local function add(tally, value)
  tally[1], tally[2], tally[3] = tally[1] + 1, tally[2] + value, tally[3] + value * value
end

-- Whether it was counted under its own name.
local function count(place, name, value)
  local pool = tallies[place]
  if not pool then
    pool = { releases = 1, names = 0, of = {} }
    tallies[place] = pool
  end
  local tally = pool.of[name]
  if not tally or (tally[4] ~= pool.releases and name ~= "-") then
    if name ~= "-" then
      if pool.names >= MOST_NAMES then
        count(place, "-", 0)
        return false
      end
      pool.names = pool.names + 1
    end
    tally = tally or { 0, 0.0, 0.0 }
    tally[4] = pool.releases
    pool.of[name] = tally
  end
  add(tally, value)
  return true
end

local function make_room(place)
  local pool = tallies[place]
  if pool then
    for name, tally in pairs(pool.of) do
      if name ~= "-" and tally[4] ~= pool.releases then
        pool.of[name] = nil
      end
    end
    pool.releases, pool.names = pool.releases + 1, 0
  end
end

-- The patterns take a time that grows with the length only, whatever is in them.
local function read_event(word)
  local name, value = word:match("^([a-z][a-z0-9_.-]*)(.*)$")
  if not name or #name > 40 then
    return nil
  end
  if value == "" then
    return name, 1
  end
  local number = #value <= 33 and value:match("^=(-?%d+%.?%d*)$")
  value = number and tonumber(number)
  if value and math.abs(value) <= LARGEST then
    return name, value
  end
end

-- What answers tell of the variants that they were made with, by pool and "flag=variant". When the pool gets another
-- release its variants begin anew. What they came to before is `old`: it stays until a reader was told, so none is lost.
local MOST_ITEMS, MOST_VARIANTS, LONGEST_LIST, LONGEST_WORD = 16, 200, 4096, 100
local variants = {} -- pool -> { names = how many, of = "flag=variant" -> variant, old = a list of variants }
local births, tick = 0, 1 -- the tick goes on whenever a reader is told, and each variant knows when it was counted last

local function variant_of(place, name)
  local pool = variants[place]
  if not pool then
    pool = { names = 0, of = {}, old = {} }
    variants[place] = pool
  end
  local variant = pool.of[name]
  if not variant and pool.names < MOST_VARIANTS then
    births = births + 1
    variant = { name = name, born = births, tick = 0, requests = 0, errors = 0, latencies = {}, events = {} }
    pool.of[name], pool.names = variant, pool.names + 1
  end
  return variant
end

local function retire(place)
  local pool = variants[place]
  if pool then
    local old = {}
    for _, variant in ipairs(pool.old) do
      if variant.tick >= tick and #old < MOST_VARIANTS then
        old[#old + 1] = variant
      end
    end
    for _, variant in pairs(pool.of) do
      old[#old + 1] = variant
    end
    variants[place] = { names = 0, of = {}, old = old }
  end
end

-- The bucket of a time in microseconds: as domain/analysis/latency.py has it, to the last bit.
local function bucket_of(took)
  local seconds = took / 1e6
  if seconds <= 1e-5 then
    return 0
  end
  return math.min(200, math.floor(math.log(seconds / 1e-5, 2) * 8))
end

-- Calls `take` with each item of a header's lines, and with nil for a line that is too long.
local function each_item(txn, header, longest, take)
  for i = 1, txn.f:res_fhdr_cnt(header) do
    local line = txn.f:res_fhdr(header, i) or ""
    if #line > longest then
      take(nil)
    else
      for item in line:gmatch("[^,]+") do
        if item:find("[^ \t]") then
          take(item:match("^[ \t]*([^ \t]+)[ \t]*$") or "")
        end
      end
    end
  end
end

local function events_told(txn, place)
  local room, told = MOST_EVENTS, {}
  each_item(txn, "X-Crossfade-Event", LONGEST, function(item)
    local name, value = read_event(item or "")
    if not name or room == 0 then
      count(place, "-", 0)
    else
      room = room - 1
      if count(place, name, value) then
        told[#told + 1] = { name, value }
      end
    end
  end)
  return told
end

local function variants_told(txn, place)
  local room, told, seen = MOST_ITEMS, {}, {}
  each_item(txn, "X-Crossfade-Variant", LONGEST_LIST, function(item)
    if item and seen[item] then
      return -- a flag that was asked twice
    end
    local flag, value = (item or ""):match("^([A-Za-z0-9._-]+)=([A-Za-z0-9._-]+)$")
    local variant
    if flag and #flag <= LONGEST_WORD and #value <= LONGEST_WORD and room > 0 then
      room, seen[item] = room - 1, true
      variant = variant_of(place, item)
    end
    if variant then
      told[#told + 1] = variant
    else
      count(place, "-", 0)
    end
  end)
  return told
end

-- How long the client waited for the answer's headers; nil for streams, which may wait for something to say.
local function time_taken(txn, status)
  local began = txn:get_var("txn.t0")
  if began and status ~= 101 and not (txn.f:res_fhdr("Content-Type") or ""):find("^text/event%-stream") then
    return txn.f:date(0, "us") - began
  end
end

core.register_action("told", { "http-res" }, function(txn, place)
  if (txn:get_var("txn.slot") or "") == "" then -- it is set for previews: the control plane's own questions
    local events, answer = events_told(txn, place), variants_told(txn, place)
    if #answer > 0 then
      local status = txn.f:status()
      local failed, took = status >= 500 and 1 or 0, time_taken(txn, status)
      local bucket = took and bucket_of(took)
      for _, variant in ipairs(answer) do
        variant.requests, variant.errors, variant.tick = variant.requests + 1, variant.errors + failed, tick
        if bucket then
          variant.latencies[bucket] = (variant.latencies[bucket] or 0) + 1
        end
        for _, event in ipairs(events) do
          variant.events[event[1]] = variant.events[event[1]] or { 0, 0.0, 0.0 }
          add(variant.events[event[1]], event[2])
        end
      end
    end
  end
end, 1)

local function line_of(place, variant)
  local latencies, events = {}, {}
  for bucket, n in pairs(variant.latencies) do
    latencies[#latencies + 1] = string.format("%d:%d", bucket, n)
  end
  for name, tally in pairs(variant.events) do
    events[#events + 1] = string.format("%s:%d:%.17g:%.17g", name, tally[1], tally[2], tally[3])
  end
  return string.format("%s %s %d %d %d %s %s\n", place, variant.name, variant.born, variant.requests, variant.errors,
    #latencies > 0 and table.concat(latencies, ",") or "-", #events > 0 and table.concat(events, ",") or "-")
end

-- What has been counted since the tick that an earlier answer began with; older variants of a name before newer ones.
core.register_cli({ "crossfade", "variants" }, "", function(applet, _, _, since)
  since, tick = tonumber(since) or 0, tick + 1
  local lines = { string.format("tick %d\n", tick) }
  for place, pool in pairs(variants) do
    for _, variant in ipairs(pool.old) do
      if variant.tick >= since then
        lines[#lines + 1] = line_of(place, variant)
      end
    end
    for _, variant in pairs(pool.of) do
      if variant.tick >= since then
        lines[#lines + 1] = line_of(place, variant)
      end
    end
  end
  applet:send(table.concat(lines))
end)

core.register_cli({ "crossfade", "events" }, "", function(applet)
  local lines = {}
  for place, pool in pairs(tallies) do
    for name, tally in pairs(pool.of) do
      lines[#lines + 1] = string.format("%s %s %d %.17g %.17g\n", place, name, tally[1], tally[2], tally[3])
    end
  end
  applet:send(table.concat(lines))
end)

-- Which release a pool has. Another one may use other names of events and variants, so it has room for as many.
core.register_cli({ "crossfade", "release" }, "", function(applet, _, _, place, release)
  if release == "-" then
    core.del_map(RELEASES, place)
  else
    if releases:lookup(place) ~= release then
      make_room(place)
      retire(place)
    end
    core.set_map(RELEASES, place, release)
  end
  applet:send("done\n")
end)

-- A request that names a preview's secret belongs to the preview's slot. Compared in a time that does not depend on
-- how much of it is right.
core.register_action("preview", { "http-req" }, function(txn, key)
  local slot, secret = (previews:lookup(key) or ""):match("^(%a+):(.+)$")
  local said = txn.f:req_fhdr("X-Crossfade-Preview") or ""
  if not slot or #secret < 16 or #said ~= #secret then
    return
  end
  local difference = 0
  for i = 1, #secret do
    difference = difference | (secret:byte(i) ~ said:byte(i))
  end
  if difference == 0 then
    txn:set_var("txn.slot", slot)
  end
end, 1)

-- Waits while the environment is held; ends the hold when its time is over, whoever notices first.
core.register_action("hold", { "http-req" }, function(_, key)
  while true do
    local deadline = tonumber(holds:lookup(key) or "")
    if not deadline then
      return
    end
    if deadline <= now() then
      core.del_map(HOLDS, key)
      return
    end
    core.msleep(5)
  end
end, 1)

-- A split's code, as Split.code makes it: green's weight, and whose share the control pool takes. Without a control pool
-- the baseline is the slot with more weight, which matters to requests that were on their way when it was taken away.
local function baseline_of(key)
  local code = tonumber(weights:lookup(key) or "") or 0
  local of_green = code >= 5000
  if code > 10000 then
    of_green = code // 10001 % 2 == 1
  end
  return of_green and "green" or "blue"
end

-- Where the requests of a pool go when it has no server: those of a slot to the other, those of the control pool to the
-- slot that it was taken from. The last resort is whatever is left.
local function substitutes(key, pool)
  if pool ~= "control" then
    return { pool == "blue" and "green" or "blue", "control" }
  end
  local baseline = baseline_of(key)
  return { baseline, baseline == "blue" and "green" or "blue" }
end

local function usable(name)
  local backend = core.backends[name]
  return backend ~= nil and backend:get_srv_act() > 0
end

-- A request whose pool has no usable server comes here, over the edge's own socket. It goes to another pool
-- when one has a server; else it waits a little for one to come back. A previewed request stays with its slot.
-- The pool itself is looked at first: it may be alive here while a worker that a reload replaced knows it as dead.
core.register_action("elsewhere", { "http-req" }, function(txn)
  local from = txn:get_var("txn.from") or ""
  local hops, preview, patience, began, name = from:match("^(%d+):(%a*)%-?:(%d+):(%d*)%-?:(%S+)$")
  if not name then
    return
  end
  local key, pool = name:match("^(.+)%.(%a+)$")
  if not core.backends[name] then
    return -- the environment was removed while a replaced worker still served it
  end
  local previewed = preview ~= ""
  local pools = { pool }
  if not previewed then
    table.move(substitutes(key, pool), 1, 2, 2, pools)
  end
  local deadline = now() + math.min(5, tonumber(patience) / 2000)
  local to
  while not to do
    for _, candidate in ipairs(pools) do
      if not to and usable(key .. "." .. candidate) then
        to = key .. "." .. candidate
      end
    end
    if not to and (tonumber(hops) > 3 or now() >= deadline) then
      to = key .. (previewed and "._shut" or "._nobody")
    elseif not to then
      core.msleep(20)
    end
  end
  local elapsed = (now() - (tonumber(began) or 0) / 1000000) * 1000
  if began == "" or elapsed < 0 then
    elapsed = 0
  end
  -- This hop gives up before the one that waits for it does, so that a timeout is counted once.
  txn:set_var("txn.left", math.floor(math.max(50, tonumber(patience) - elapsed - 50)))
  txn:set_var("txn.hops", tonumber(hops) + 1)
  txn:set_var("txn.slot", preview)
  txn:set_var("txn.patience", tonumber(patience))
  txn:set_var("txn.to", to)
end)
