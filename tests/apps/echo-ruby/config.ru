# frozen_string_literal: true

# Answers what it got. The parameters are described in tests/apps/README.md.

require 'digest'
require 'json'
require 'rack'

# Streams "chunk N" lines.
class Chunks
  def initialize(count, pause, fail_after)
    @count = count
    @pause = pause
    @fail_after = fail_after
  end

  def each
    @count.times do |number|
      raise "echo: failing after #{number} chunks, as asked" if number == @fail_after

      sleep @pause if number.positive?
      yield "chunk #{number}\n"
    end
  end
end

def read_body(input)
  digest = Digest::SHA256.new
  length = 0
  while (piece = input.read(65_536))
    digest << piece
    length += piece.bytesize
  end
  { length: length, sha256: digest.hexdigest }
end

def text(value)
  value.dup.force_encoding(Encoding::UTF_8).scrub('?')
end

def report(env, body)
  strings = env.select { |name, value| value.is_a?(String) && !name.start_with?('rack.') }
  strings = strings.to_h { |name, value| [text(name), text(value)] }
  headers = strings.select { |name, _| name.start_with?('HTTP_') || name.start_with?('CONTENT_') }
  JSON.generate(
    language: 'ruby', pid: Process.pid, uid: Process.uid, cwd: Dir.pwd,
    method: strings['REQUEST_METHOD'], script_name: strings['SCRIPT_NAME'], path: strings['PATH_INFO'],
    query: strings['QUERY_STRING'], uri: strings['REQUEST_URI'],
    headers: headers.to_h { |name, value| [name.delete_prefix('HTTP_').downcase.tr('_', '-'), value] },
    env: strings, process_env: ENV.to_h, body: body
  )
end

LIST_DESCRIPTORS = 'for fd in /proc/self/fd/*; do readlink "$fd" || :; done'

def descriptors_of_fork
  reader, writer = IO.pipe
  pid = fork do
    writer.write(Dir.children('/proc/self/fd').filter_map { |fd| File.readlink("/proc/self/fd/#{fd}") rescue nil }.join("\n"))
    exit!(0)
  end
  writer.close
  list = reader.read
  Process.wait(pid)
  list
end

run(lambda do |env|
  query = env['QUERY_STRING'].split('&').map { |pair| Rack::Utils.unescape(pair).split('=', 2) }
  options = query.to_h
  body = read_body(env['rack.input'])

  exit!(7) if options['crash']
  raise ArgumentError, 'echo: raising, as asked' if options['raise']

  if options['log']
    puts options['log']
    warn "err: #{options['log']}"
  end
  sleep options['sleep_ms'].to_f / 1000 if options['sleep_ms']

  headers = { 'content-type' => 'text/plain' }
  query.each do |name, value|
    next unless name == 'header'

    key, content = value.split(':', 2)
    headers[key] = headers.key?(key) ? "#{headers[key]}\n#{content}" : content
  end
  status = (options['status'] || 200).to_i

  if options['bytes']
    alphabet = ('a'..'z').to_a.join
    length = options['bytes'].to_i
    headers['content-length'] = length.to_s
    [status, headers, [(alphabet * (length / 26 + 1)).byteslice(0, length)]]
  elsif options['chunks']
    [status, headers, Chunks.new(options['chunks'].to_i, options['chunk_ms'].to_f / 1000, options['fail_after']&.to_i)]
  elsif options['child_fds']
    [status, headers, [IO.popen(['sh', '-c', LIST_DESCRIPTORS], &:read)]]
  elsif options['fork_fds']
    [status, headers, [descriptors_of_fork]]
  else
    headers['content-type'] = 'application/json'
    [status, headers, [204, 304].include?(status) ? [] : [report(env, body)]]
  end
end)
